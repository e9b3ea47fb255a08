"""Runs of the command ``pyvirhost``, also on a terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "pyvirhost"]
ROOT = Path(__file__).parent.parent
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def run(*arguments, **options):
    environment = os.environ | options.pop("environment", {})
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60,
                          cwd=ROOT, env=environment, check=False, **options)


# Makes its terminal the one whose Ctrl-C it gets, and undoes what a shell does to the jobs that it
# runs in the background. In a process that has threads, Python can't do that before exec.
TAKE_CONTROL = """\
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The command on a terminal of its own, as a context manager.

    With `stdout` its answers go elsewhere, and only what it tells people is on the terminal.
    """

    def __init__(self, *arguments, stdout=None, **environment):
        self.arguments = arguments
        self.stdout = stdout
        self.environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color",
                            "COLUMNS": "120", "HOME": "/nonexistent", **environment}
        self.printed = ""

    def __enter__(self):
        self.screen, self.keys = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_CONTROL, *COMMAND, *self.arguments], stdin=self.keys,
            stdout=self.stdout or self.keys, stderr=self.keys, cwd=ROOT, env=self.environment,
            start_new_session=True)
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        if self.keys is not None:
            os.close(self.keys)
        os.close(self.screen)

    def read(self, until=None, timeout=30):
        """Return all that was printed when it has `until`, or else at the command's end."""
        deadline = time.monotonic() + timeout
        while until is None or until not in self.printed:
            if until is None and self.keys is not None and self.process.poll() is not None:
                os.close(self.keys)  # Linux raises EIO where all other ends are closed
                self.keys = None
            ready, _, _ = select.select([self.screen], [], [], 0.05)
            if ready:
                try:
                    part = os.read(self.screen, 65536)
                except OSError:
                    break
                self.printed += part.decode(errors="replace").replace("\r\n", "\n")
            assert time.monotonic() < deadline, f"waited in vain for {until!r}: {self.printed!r}"
        return self.printed

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def end(self):
        """Return the exit status and all that was printed."""
        printed = self.read()
        return self.process.wait(timeout=60), printed


def on_terminal(*arguments, status=0, **environment):
    """Return what the command prints on a terminal."""
    with Terminal(*arguments, **environment) as terminal:
        ended, printed = terminal.end()
    assert ended == status, printed
    return printed

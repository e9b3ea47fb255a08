"""Runs of the command ``pyvirhost``, also on a terminal."""

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

TEST = "test:///default"
# The one that is installed, wherever it runs: not what lies in the folder.
COMMAND = [sys.executable, "-P", "-m", "pyvirhost"]
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


# ---- what it says, and what virsh does ----------------------------------------------------------

def virsh(uri, *command, status=0):
    """What virsh says: its answer, or the last line of what is wrong or different."""
    done = subprocess.run(["virsh", "-c", uri, *command], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.strip() if not status else (
        (done.stderr.strip() or done.stdout.strip()).splitlines()[-1].removeprefix("error: "))


def virsh_numbers(uri, *command):
    return {name.strip(): int(number) for name, number in re.findall(
        r"^\s*(\S.*?)\s*:?\s+(\d+)\b", virsh(uri, *command), re.MULTILINE)}


def text(uri, *command, status=0):
    done = run("-c", uri, *command)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout.rstrip("\n")


def pairs(uri, *command):
    """The labels and values of a text."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text(uri, *command).splitlines())


def data(uri, *command, status=0):
    done = run("-c", uri, "--json", *command)
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def refusal(*arguments, status=1):
    """The one line that says what is wrong."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    line, = done.stderr.splitlines()
    return line.removeprefix("pyvirhost: ")


def between(before, value, after, slack=0):
    assert min(before, after) - slack <= value <= max(before, after) + slack


@contextmanager
def silent_servers(folder, count):
    """URIs of servers that let everybody connect, and say nothing."""
    with ExitStack() as stack:
        servers = []
        for i in range(count):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(f"{folder}/silent{i}")
            server.listen()
            server.settimeout(60)
            servers.append(server)
        yield [(f"test+unix:///default?socket={folder}/silent{i}", server)
               for i, server in enumerate(servers)]

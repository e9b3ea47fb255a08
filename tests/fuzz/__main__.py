"""Do odd things to the package at random, in processes that are watched from outside.

    make fuzz [SECONDS=N] [SEED=TEXT] [PART=PART] [FIRST=STEP]

A crash, a hang, an exception that is not documented, and what grows without end are findings: they
are shown, with the command that repeats them, and the exit status is 1.
"""

import argparse
import contextlib
import gc
import importlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

PARTS = ("calls", "pickles", "buffers", "answers", "xml", "command")
PROGRAM = [sys.executable, "-X", "faulthandler", "-m", "fuzz"]
# Seconds without a new step after which a process hangs. The slowest tools make minutes of seconds.
HANGS = 120
# How often a part's process is measured. What leaks grows each time; before half of them things
# get warm.
WINDOWS = 8
# Growth of memory that is no leak, in bytes a step and in bytes in all: libraries keep caches.
FEW_BYTES, MANY_BYTES = 24, 1 << 19
# Bytes that nothing may make a process take, whatever a server says.
MOST_MEMORY = 1 << 30


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long, in all (60)")
    parser.add_argument("--seed", help="any text; by default a new one")
    parser.add_argument("--only", choices=PARTS, metavar="PART", help="one of " + ", ".join(PARTS))
    parser.add_argument("--first", type=int, default=0, metavar="STEP", help="where to begin (0)")
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.progress is not None:
        try:
            work(options.only, options.seconds, options.seed, options.first, options.progress)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # a thread that hangs must not keep this from being told
        return
    seed = str(random.SystemRandom().randrange(10**6)) if options.seed is None else options.seed
    parts = PARTS if options.only is None else (options.only,)
    print(f"fuzz: seed {seed}, {options.seconds / len(parts):g} s each of {', '.join(parts)}",
          flush=True)
    found = False
    for part in parts:
        problem, steps = watch(part, options.seconds / len(parts), seed, options.first)
        if problem is None:
            print(f"fuzz: {part}: {steps - options.first} steps, nothing found", flush=True)
        else:
            found = True
            print(f"fuzz: {part}: {problem} at step {steps}; again, from there or from 0:\n"
                  f"    make fuzz PART={part} SEED={seed} FIRST={steps}", flush=True)
    sys.exit(found)


# ---- from outside -------------------------------------------------------------------------------

def watch(part, seconds, seed, first):
    """Run a part in a process, and return what is wrong with it, or None, and its last step."""
    with tempfile.TemporaryDirectory(prefix="vh-") as folder:
        progress = Path(folder) / "progress"
        progress.write_text(str(first))
        process = subprocess.Popen(
            [*PROGRAM, "--only", part, "--seconds", str(seconds), "--seed", seed,
             "--first", str(first), "--progress", progress],
            stdin=subprocess.DEVNULL, env=os.environ | {
                "PYTHONHASHSEED": "0",
                # What takes no URI must not find a driver of this host, or a user's settings.
                "LIBVIRT_DEFAULT_URI": "test:///default", "HOME": folder,
                "XDG_CONFIG_HOME": folder, "XDG_RUNTIME_DIR": folder, "XDG_CACHE_HOME": folder})
        try:
            status = wait(process, progress)
        finally:
            process.kill()
            process.wait()
        step = int(progress.read_text())
    if status is None:
        return f"hangs for {HANGS} s", step
    if status < 0:
        return f"dies of {signal.Signals(-status).name}", step
    return "fails" if status else None, step


def wait(process, progress):
    """Return the exit status of a process, or None where it hangs."""
    seen, since = None, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        now = progress.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > HANGS:
            process.send_signal(signal.SIGABRT)  # faulthandler shows where each thread is
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            return None


# ---- from inside --------------------------------------------------------------------------------

def work(part, seconds, seed, first, progress):
    """Do one random step after another, until the time is over."""
    import pyvirhost
    from fuzz.odd import Unraisable, forget

    # A shell lets what it runs in the background ignore it, and so would our children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step_file = os.open(progress, os.O_WRONLY)
    module = importlib.import_module(f"fuzz.{part}")
    with pyvirhost.open("test:///default") as connection:
        # The thread that calls back stays once it has begun.
        connection.register_close_callback(lambda *_: None)
    before = Use()
    unraisable = Unraisable()
    number = first
    marks = []
    with module.prepare() as step:
        began = time.monotonic()
        # A repeated step is done also where there is no time.
        while (passed := time.monotonic() - began) < seconds or number == first:
            if passed >= seconds * len(marks) / WINDOWS:
                marks.append((number, Use()))
            os.pwrite(step_file, b"%020d" % number, 0)
            step(random.Random(f"{seed} {part} {number}"))
            number += 1
            forget()
            unraisable.check()
            assert b"".join(SINGLE) == bytes(range(256)), "a byte is another one"
        marks.append((number, Use()))
    os.pwrite(step_file, b"%020d" % number, 0)
    del step
    check_growth(marks)
    before.check_end()
    unraisable.check()


# CPython has one object for each of them.
SINGLE = [bytes([number]) for number in range(256)]


class Use:
    """What this process uses at a moment."""

    def __init__(self):
        from glibc import bytes_in_use

        import pyvirhost

        gc.collect()
        # Python's blocks are of 512 bytes at the most, and most of them far smaller.
        self.memory = bytes_in_use() + 64 * sys.getallocatedblocks()
        self.counts = {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "connections": sum(type(one) is pyvirhost.Connection for one in gc.get_objects())}

    def check_end(self):
        """Fail where much more is in use than was at this moment."""
        from daemon import wait_until

        import pyvirhost

        pyvirhost.EventLoop().stop()
        # Libraries keep some from their first use on.
        slack = {"descriptors": 8, "threads": 0, "connections": 0}
        wait_until(lambda: all(now <= self.counts[name] + slack[name]
                               for name, now in Use().counts.items()),
                   f"what is left behind to go: {self.counts}, {Use().counts}")
        peak = max(int(line.split()[1]) << 10 for line in
                   Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        assert peak < MOST_MEMORY or "LD_PRELOAD" in os.environ, f"{peak} bytes of memory were used"


def check_growth(marks):
    """Fail where something grew all the time, at least from the middle on."""
    marks = marks[len(marks) // 2:]
    pairs = list(itertools.pairwise(marks))
    if len(pairs) < 3:
        return
    for name in marks[0][1].counts:
        assert not all(earlier.counts[name] < later.counts[name]
                       for (_, earlier), (_, later) in pairs), (
            f"{name} grow: {[use.counts[name] for _, use in marks]}")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return  # it keeps each class that is made here: see `forget` of odd.py
    each = min((later.memory - earlier.memory) / max(now - then, 1)
               for (then, earlier), (now, later) in pairs)
    total = marks[-1][1].memory - marks[0][1].memory
    assert each < FEW_BYTES or total < MANY_BYTES, (
        f"memory grows by {each:.0f} bytes or more in each step, by {total} in all")


if __name__ == "__main__":
    main()

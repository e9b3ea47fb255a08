#!/usr/bin/env python3
"""Run the tests that start threads under ThreadSanitizer: .ci/races.py FILE...

The tests of the files that it is given run in several threads each. Before, a race is planted in a
copy of the sources and has to be found. The interpreter has to be built with ThreadSanitizer, as
`.ci/freethreaded-python --tsan` does.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from build import ROOT, build

BUILD = ROOT / "build" / "races"

THREADS = [f"tests/test_{name}.py"
           for name in ("aio", "connection", "events", "faults", "loop", "snapshot")]
# Many threads in one connection to a daemon, where libvirt before 10.4 has races of its own; counts
# of memory, thousands of openings and of timers, in which no two threads meet; threads that write
# one snapshot, who are told that they may see it half written; children forked beside threads that
# start some, which ThreadSanitizer does not support; and libvirt's own event loop.
NOT_THREADS = ["-k", "not (sixteen and (unix or tcp)) and not 2000_openings and not share_an_out"
               " and not thousands and not (fork and (events or loop)) and not libvirts_own_loop"]
# Hypothesis takes more than a quarter of an hour for its own tables there.
NOT_PARALLEL = ["-k", "not whatever"]

# A call that counts itself out unguarded.
SOUND = "        with cython.critical_section(self):\n            self.calls -= 1\n"
FAULT = "        if True:\n            self.calls -= 1\n"
PROGRAM = """
import threading
import pyvirhost
connection = pyvirhost.open("test:///default")
start = threading.Barrier(4)

def call():
    start.wait()
    for _ in range(2000):
        connection.node_info()

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def run(package, *arguments):
    """Run Python with that package and return its exit status and the races, each as its text."""
    reports = BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    suppressions = BUILD / "suppressions"
    suppressions.write_text((ROOT / ".ci" / "tsan.supp").read_text()
                            + Path(sys.base_prefix, "tsan.supp").read_text())
    # libtsan calls the XDR functions that it finds at the start, long before libvirt brings
    # libtirpc. libvirt's callbacks end with a jump to pthread_mutex_unlock, which then seems to be
    # called by our loop, of a mutex that libvirt locked unseen.
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={
            **os.environ, "PYTHONPATH": str(package), "PYTHONSAFEPATH": "1",
            "LD_PRELOAD": "libtirpc.so.3",
            "TSAN_OPTIONS": "exitcode=0:report_mutex_bugs=0:"
                            f"log_path={reports}/race:suppressions={suppressions}"})
    texts = [path.read_text(errors="replace") for path in sorted(reports.iterdir())]
    return done.returncode, [race for text in texts for race in text.split("=" * 18 + "\n")
                             if "WARNING: ThreadSanitizer" in race]


def check(good, message):
    if not good:
        sys.exit(f"test-threads: {message}")
    print(f"test-threads: {message.replace(' not', '')}", flush=True)


def main():
    os.chdir(ROOT)
    shutil.rmtree(BUILD, ignore_errors=True)
    status, races = run(
        build(BUILD / "fault", "--sanitize=thread", faults=[("_connection.pyx", SOUND, FAULT)]),
        "-c", PROGRAM)
    check(status == 0 and any("Connection_leave" in race for race in races),
          "the planted race was not found")
    package = build(BUILD / "sound", "--sanitize=thread")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=900")
    for arguments in ((*THREADS, *NOT_THREADS),
                      ("--parallel-threads=4", *sys.argv[1:], *NOT_PARALLEL)):
        status, races = run(package, *pytest, *arguments)
        print(*races, sep="\n", end="", flush=True)
        check(status == 0 and not races, "the threads did not pass")


main()

"""What it costs to start: whole processes, from their beginning to their end."""

import subprocess
import sys

from benchmarks import OURS, PYTHON, THEIRS, C
from benchmarks.rounds import alternate, clock

PART = "starting"
IMPORT = "import"
FIRST = "import, open, first node_info"
URI = "test:///default"
PROGRAMS = {
    IMPORT: {
        PYTHON: "pass",
        OURS: "import pyvirhost",
        THEIRS: "import libvirt",
    },
    FIRST: {
        PYTHON: "pass",
        OURS: f"import pyvirhost; pyvirhost.open({URI!r}).node_info()",
        THEIRS: f"import libvirt; libvirt.open({URI!r}).getInfo()",
    },
}


def process_timer(*command):
    """Return a function that runs a command some times and returns the seconds it took."""
    def time(loops):
        begin = clock()
        for _ in range(loops):
            subprocess.run(command, check=True)
        return clock() - begin

    return time


def measure(program, rounds):
    """Time the processes, one of each kind a round; `program` is what `start.c` became."""
    found = []
    for reading, programs in PROGRAMS.items():
        timers = {name: process_timer(sys.executable, "-c", text)
                  for name, text in programs.items()}
        if reading == FIRST:
            timers[C] = process_timer(program, URI)
        for timer in timers.values():
            timer(1)  # reads the files, and writes the byte code, which no later one has to
        found += [(reading, contestant, "second", values)
                  for contestant, values in alternate(timers, rounds).items()]
    return found

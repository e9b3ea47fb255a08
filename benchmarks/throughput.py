"""How many readings a second threads make over the socket, each thread on its own connection."""

import threading
from concurrent.futures import ThreadPoolExecutor

from benchmarks import OURS, THEIRS, C, worker
from benchmarks.rounds import alternate, clock

PART = "threads over a socket"
THREADS = (1, 2, 4, 8)
FIELDS = ("cpu_stats", "memory_stats", "cells_free_memory")
SNAPSHOT, CALLS = "a snapshot each time", "3 calls each time"


def reading(threads, how):
    """Return what the table calls so many threads."""
    return f"{threads} thread{'s' if threads > 1 else ''}, {how}"


def threads_timer(readers):
    """Return a function that has each reader run in a thread, and returns the seconds it took."""
    def time(loops):
        start = threading.Barrier(len(readers))

        def run(reader):
            start.wait()
            begin = clock()
            reader(loops)
            return begin, clock()

        with ThreadPoolExecutor(len(readers)) as threads:
            begins, ends = zip(*threads.map(run, readers), strict=True)
        return max(ends) - min(begins)

    return time


def of_snapshots(host):
    """Return a function that makes so many snapshots."""
    def read(loops):
        for _ in range(loops):
            host.snapshot(FIELDS)

    return read


def of_calls(host):
    """Return a function that makes the three calls so many times."""
    def read(loops):
        for _ in range(loops):
            host.cpu_stats()
            host.memory_stats()
            host.cells_free_memory()

    return read


def of_libvirt_python(host):
    """Return a function that makes libvirt-python's three calls so many times."""
    cells = host.getInfo()[4]

    def read(loops):
        for _ in range(loops):
            host.getCPUStats(-1)
            host.getMemoryStats(-1)
            host.getCellsFreeMemory(0, cells)

    return read


def measure(uri, library, rounds, batch):
    """Time how long one sweep takes of however many threads there are."""
    import libvirt

    import pyvirhost
    from benchmarks.twin import Twin

    most = max(THREADS)
    ours = [pyvirhost.open(uri) for _ in range(most)]
    theirs = [libvirt.open(uri) for _ in range(most)]
    twins = [Twin(library, uri) for _ in range(most)]
    readers = {
        SNAPSHOT: [of_snapshots(host) for host in ours],
        CALLS: [of_calls(host) for host in ours],
        THEIRS: [of_libvirt_python(host) for host in theirs],
        C: [twin.timer(FIELDS) for twin in twins],
    }
    found = []
    for threads in THREADS:
        timers = {name: threads_timer(each[:threads]) for name, each in readers.items()}
        seconds = {name: [value / threads for value in values]
                   for name, values in alternate(timers, rounds, batch).items()}
        for how in (SNAPSHOT, CALLS):
            found += [(reading(threads, how), contestant, "second", seconds[name])
                      for contestant, name in ((OURS, how), (THEIRS, THEIRS), (C, C))]
    return found


if __name__ == "__main__":
    worker.answer(measure)

"""How the cost of a host grows with their number, from 1 connection to 1,000."""

import os
from pathlib import Path

from benchmarks import OURS, worker
from benchmarks.rounds import clock

COUNTS = (1, 10, 100, 1000)
# Memory comes to a process in pages: of a few connections it tells nothing.
MANY = 100
PLACES = ("in process", "unix socket")
FIELDS = ("node_info", "cpu_stats", "free_memory", "cells_free_memory")


def part(count, place):
    """Return the name of the part that measures so many connections."""
    return f"scale ({count}, {place})"


def reading(what, count, place):
    """Return the name under which the samples keep it."""
    return f"{what} of {count} connection{'s' if count > 1 else ''}, {place}"


def resident():
    """Return the bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def opener(contestant, uri):
    """Return a function that opens a connection, and one that sweeps over them all."""
    if contestant == OURS:
        import pyvirhost

        def sweep(hosts):
            for host in hosts:
                host.snapshot(FIELDS)

        return lambda: pyvirhost.open(uri), sweep

    import libvirt

    def sweep(hosts):  # type: ignore[no-redef]
        for host in hosts:
            host.getInfo()
            host.getCPUStats(-1)
            host.getFreeMemory()
            host.getCellsFreeMemory(0, 1)

    return lambda: libvirt.open(uri), sweep


def measure(contestant, uri, place, count, sweeps):
    """Open so many, read them all some times, and look at what that took."""
    open_one, sweep = opener(contestant, uri)
    # The first loads libvirt, which no other one has to.
    first = open_one()
    sweep([first])
    memory = resident()
    begin = clock()
    hosts = [open_one() for _ in range(count)]
    opening = clock() - begin
    sweep(hosts)
    seconds = []
    for _ in range(sweeps):
        begin = clock()
        sweep(hosts)
        seconds.append(clock() - begin)
    found = [("opening", "second", [opening]), ("sweep", "second", seconds),
             ("files", "integer", [descriptors()])]
    if count >= MANY:
        found.append(("memory", "byte", [resident() - memory]))
    for host in hosts:
        host.close()
    return [(reading(what, count, place), contestant, unit, values) for what, unit, values in found]


if __name__ == "__main__":
    worker.answer(measure)

"""What reading a host costs among many connections with keepalive, each read every ten seconds.

A call on one connection must not cost more because there are others. It does with libvirt's default
event loop, which libvirt-python uses here in a thread, as its documentation shows.
"""

import contextlib
import threading
import time

from daemon import Daemon

from benchmarks import OURS, worker
from benchmarks.rounds import clock

INTERVAL = 10
KEEPALIVE = (5, 3)
PACE = 100  # the readings a second of a thread, of which there are as many as it takes
# A daemon's loop is libvirt's default one, too: beyond this it would be what is measured.
CLIENTS = 1000
COUNTS = (10, 100, 1000)
MANY = 5000
SETTINGS = "max_clients = 5000\nmax_anonymous_clients = 5000\n"
FIELDS = ("node_info", "cpu_stats", "free_memory", "cells_free_memory")


def part(count, loop=True):
    """Return the name of the part that measures so many connections."""
    return f"connections ({count}{'' if loop else ', no event loop'})"


def reading(count, loop=True):
    """Return what the table calls it."""
    return (f"CPU a reading of 4, of {count:,} connections"
            + (" with keepalive" if loop else " without event loop"))


def ours(loop):
    """Return a function that opens a connection, and one that reads it."""
    import pyvirhost

    keepalive = KEEPALIVE if loop else None
    return (lambda uri: pyvirhost.open(uri, keepalive=keepalive),
            lambda host: host.snapshot(FIELDS))


def theirs(loop):
    """Return libvirt-python's functions for the same."""
    import libvirt

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    if loop:
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=run, daemon=True).start()

    def open_one(uri):
        host = libvirt.open(uri)
        if loop:
            host.setKeepAlive(*KEEPALIVE)
        return host

    def read(host):
        host.getInfo()
        host.getCPUStats(-1)
        host.getFreeMemory()
        host.getCellsFreeMemory(0, 1)

    return open_one, read


def read_paced(hosts, read, until, counts):
    """Read one after another until a time; then note how many."""
    begin, count = clock(), 0
    while clock() < until:
        read(hosts[count % len(hosts)])
        count += 1
        time.sleep(max(0.0, begin + count / PACE - clock()))
    counts.append(count)


def measure(contestant, count, seconds, loop=True):
    """Open so many, and read each every ten seconds for so long."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(Daemon(settings=SETTINGS))
                   for _ in range(1 if count <= CLIENTS else count // 200)]
        open_one, read = (ours if contestant == OURS else theirs)(loop)
        hosts = [open_one(daemons[number % len(daemons)].test_uri) for number in range(count)]
        for host in hosts:
            read(host)
        number_of_threads = max(1, count // (PACE * INTERVAL))
        for measured in (False, True):  # the first is for the probes to find their rhythm
            counts = []
            until = clock() + (seconds if measured else KEEPALIVE[0])
            used = time.process_time()
            threads = [
                threading.Thread(target=read_paced,
                                 args=(hosts[number::number_of_threads], read, until, counts))
                for number in range(number_of_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            used = time.process_time() - used
        for host in hosts:
            host.close()
    return [(reading(count, loop), contestant, "second", [used / sum(counts)])]


if __name__ == "__main__":
    worker.answer(measure)

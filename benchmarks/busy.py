"""Six readings of a host over its socket while another thread runs pure Python.

A thread that gave up the GIL waits up to a switch interval, 5 ms, to have it back: libvirt-python
once a call and more, a snapshot once. C has no GIL to wait for.
"""

import contextlib
import os
import threading

from benchmarks import OURS, THEIRS, C, worker
from benchmarks.rounds import alternate, python_timer

PART = "beside a busy thread"
# What a daemon answers from its priority workers: how libvirt-python reads it
READINGS = {
    "node_info": "host.getInfo()",
    "cpu_stats": "host.getCPUStats(-1)",
    "memory_stats": "host.getMemoryStats(-1)",
    "per_cell_memory_stats": "[host.getMemoryStats(cell) for cell in range(cells)]",
    "free_memory": "host.getFreeMemory()",
    "cells_free_memory": "host.getCellsFreeMemory(0, cells)",
}
COUNTS = range(1, len(READINGS) + 1)


def reading(count, busy):
    """Return what the table calls so many readings at a time."""
    text = "1 reading" if count == 1 else f"{count} readings"
    return text + (" beside a busy thread" if busy else " undisturbed")


@contextlib.contextmanager
def busy_thread():
    """Count in another thread."""
    stop = False

    def count():
        number = 0
        while not stop:
            number += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()


def measure(uri, library, rounds):
    """Time one to six readings, with a busy thread and without."""
    import libvirt

    import pyvirhost
    from benchmarks.twin import Twin

    # The GIL lets one of the two threads run at a time. On one CPU the busy one is there as soon as
    # the other waits, whatever else the machine does; the daemon has the others.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ours, theirs, twin = pyvirhost.open(uri), libvirt.open(uri), Twin(library, uri)
    cells = ours.node_info().nodes
    found = []
    for busy in (False, True):
        with busy_thread() if busy else contextlib.nullcontext():
            for count in COUNTS:
                names = tuple(READINGS)[:count]
                seconds = alternate({
                    OURS: python_timer("host.snapshot(names)", "", host=ours, names=names),
                    THEIRS: python_timer("\n".join(READINGS[name] for name in names), "",
                                         host=theirs, cells=cells),
                    C: twin.timer(names),
                }, rounds)
                found += [(reading(count, busy), contestant, "second", values)
                          for contestant, values in seconds.items()]
    return found


if __name__ == "__main__":
    worker.answer(measure)

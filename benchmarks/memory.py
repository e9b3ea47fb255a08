"""What kept readings occupy: all memory that malloc gave out for them, in a process of their own.

With ``PYTHONMALLOC=malloc`` Python's objects are malloc's as well, so that one count, mallinfo2's,
has the C buffers and the objects alike, each with malloc's own header. glibc's caches per thread
count what is free in them as given out and are switched off.
"""

import ctypes
import gc

from benchmarks import OURS, worker

PART = "memory"
READING = "1,000 snapshots kept"
KEPT = 1000
ENVIRONMENT = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``, since 2.33."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLINFO)


def given_out():
    """Return the bytes that malloc has given out."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    gc.collect()
    found = mallinfo2()
    return found.uordblks + found.hblkhd


def reader(contestant, uri):
    """Return a function that reads all that a snapshot has by default."""
    if contestant == OURS:
        import pyvirhost

        return pyvirhost.open(uri).snapshot

    import libvirt

    host = libvirt.open(uri)
    cells = host.getInfo()[4]
    return lambda: (
        host.getInfo(), host.getCPUStats(-1), host.getMemoryStats(-1),
        [host.getMemoryStats(cell) for cell in range(cells)], host.getFreeMemory(),
        host.getCellsFreeMemory(0, cells))


def measure(contestant, uri):
    """Count what 1,000 snapshots take, or the same readings of libvirt-python."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        return []
    read = reader(contestant, uri)
    kept = [None] * KEPT
    read()  # the first teaches the connection
    before = given_out()
    for place in range(KEPT):
        kept[place] = read()
    return [(READING, contestant, "byte", [given_out() - before])]


if __name__ == "__main__":
    worker.answer(measure)

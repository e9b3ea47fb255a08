"""What glibc's malloc says of itself."""

import ctypes

libc = ctypes.CDLL(None)
# Before glibc 2.33 there was mallinfo alone, which counts in ints: enough for a process of tests.
NAME, COUNT = ("mallinfo2", ctypes.c_size_t) if hasattr(libc, "mallinfo2") else (
    "mallinfo", ctypes.c_int)
mallinfo = libc[NAME]


class MallInfo(ctypes.Structure):
    """``struct mallinfo2``, or ``struct mallinfo``."""

    _fields_ = [(name, COUNT) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


mallinfo.restype = MallInfo


def bytes_in_use():
    """How many bytes the program has of malloc."""
    info = mallinfo()
    return info.uordblks + info.hblkhd

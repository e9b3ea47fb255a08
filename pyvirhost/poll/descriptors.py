"""The limit of file descriptors: each connection takes two of them, or three over ssh."""

import resource
from contextlib import suppress

# Some versions of libvirt take time and memory for each descriptor that a program which they start
# may have. Systems allow a process this many, unless told otherwise.
_MOST = 1 << 20


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of file descriptors to the hard one, but to 2**20 at most.

    Where that is impossible it does nothing: whoever finds no descriptor left says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""Whether a second thread on a second core helps: in-process readings on own connections."""

import sys
import tempfile
from pathlib import Path

from benchmarks import OURS, THEIRS, C, worker
from benchmarks.rounds import alternate
from benchmarks.throughput import threads_timer

# In process the drivers of different files share nothing, not even a lock.
NODE = "<node/>"
READINGS = ("node_info", "cpu_stats", "cpu_map")
WITH, WITHOUT = "with the GIL", "without the GIL"


def part(gil):
    """Return the name of the part that measures with or without the GIL."""
    return f"threads in process ({gil})"


def reading(threads, gil):
    """Return what the table calls so many threads."""
    return f"{threads} thread{'s' if threads > 1 else ''} in process, {gil}"


def of_pyvirhost(host):
    """Return a function that makes the readings so many times."""
    def read(loops):
        for _ in range(loops):
            host.node_info()
            host.cpu_stats()
            host.cpu_map()

    return read


def of_libvirt_python(host):
    """Return a function that makes libvirt-python's readings so many times."""
    def read(loops):
        for _ in range(loops):
            host.getInfo()
            host.getCPUStats(-1)
            host.getCPUMap()

    return read


def measure(library, rounds, batch):
    """Time one thread and two, by turns."""
    import pyvirhost
    from benchmarks.twin import Twin

    with_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "node.xml")
        path.write_text(NODE)
        uri = f"test://{path}"
        readers = {OURS: [of_pyvirhost(pyvirhost.open(uri)) for _ in range(2)],
                   C: [Twin(library, uri).timer(READINGS) for _ in range(2)]}
        if with_gil:
            # Its import would switch the GIL on.
            import libvirt

            readers[THEIRS] = [of_libvirt_python(libvirt.open(uri)) for _ in range(2)]
    seconds = alternate({(name, threads): threads_timer(each[:threads])
                         for name, each in readers.items() for threads in (1, 2)}, rounds, batch)
    gil = WITH if with_gil else WITHOUT
    return [(reading(threads, gil), name, "second", [value / threads for value in values])
            for (name, threads), values in seconds.items()]


if __name__ == "__main__":
    worker.answer(measure)

"""What single calls and snapshots cost, in process and over a unix socket."""

from dataclasses import dataclass

from benchmarks import OURS, THEIRS, C, worker
from benchmarks.rounds import alternate, python_timer


@dataclass(frozen=True)
class Call:
    """The same reading three times: for `host` of each binding, and as the C twin's readings."""

    ours: str
    theirs: str
    twin: tuple[str, ...]
    setup: str = ""


# reading -> call
IN_PROCESS = {
    "node_info": Call("host.node_info()", "host.getInfo()", ("node_info",)),
    "cpu_stats": Call("host.cpu_stats()", "host.getCPUStats(-1)", ("cpu_stats",)),
    "cpu_stats(out=)": Call(
        "host.cpu_stats(out=earlier)", "host.getCPUStats(-1)", ("cpu_stats",),
        "earlier = host.cpu_stats()"),
    "cpu_map": Call("host.cpu_map()", "host.getCPUMap()", ("cpu_map",)),
    "free_memory": Call("host.free_memory()", "host.getFreeMemory()", ("free_memory",)),
    "cells_free_memory": Call(
        "host.cells_free_memory()", "host.getCellsFreeMemory(0, 2)", ("cells_free_memory",)),
    "free_pages": Call(
        "host.free_pages([4, 2048], 0, 2)", "host.getFreePages([4, 2048], 0, 2)", ("free_pages",)),
    "is_alive": Call("host.is_alive()", "host.isAlive()", ("is_alive",)),
    # The test driver has no memory statistics.
    "snapshot of 4": Call(
        "host.snapshot(('node_info', 'cpu_stats', 'free_memory', 'cells_free_memory'))",
        "host.getInfo(); host.getCPUStats(-1); host.getFreeMemory(); host.getCellsFreeMemory(0, 2)",
        ("node_info", "cpu_stats", "free_memory", "cells_free_memory")),
    "snapshot of 4 (out=)": Call(
        "host.snapshot(fields, out=earlier)",
        "host.getInfo(); host.getCPUStats(-1); host.getFreeMemory(); host.getCellsFreeMemory(0, 2)",
        ("node_info", "cpu_stats", "free_memory", "cells_free_memory"),
        "fields = ('node_info', 'cpu_stats', 'free_memory', 'cells_free_memory'); "
        "earlier = host.snapshot(fields)"),
}
# With `sixteen_cpus.c` preloaded for all three.
SIXTEEN_CPUS = {
    "per_cpu_stats of 16 CPUs": Call(
        "host.per_cpu_stats()",
        "[host.getCPUStats(cpu) for cpu, online in enumerate(host.getCPUMap()[1]) if online]",
        ("per_cpu_stats",)),
}
OVER_SOCKET = {
    "node_info": Call("host.node_info()", "host.getInfo()", ("node_info",)),
    "cpu_stats": Call("host.cpu_stats()", "host.getCPUStats(-1)", ("cpu_stats",)),
    "memory_stats": Call("host.memory_stats()", "host.getMemoryStats(-1)", ("memory_stats",)),
    "snapshot of 4": Call(
        "host.snapshot(('cpu_stats', 'memory_stats', 'free_memory', 'node_info'))",
        "host.getCPUStats(-1); host.getMemoryStats(-1); host.getFreeMemory(); host.getInfo()",
        ("cpu_stats", "memory_stats", "free_memory", "node_info")),
}
PLACES = {"in process": IN_PROCESS, "16 CPUs": SIXTEEN_CPUS, "unix socket": OVER_SOCKET}

# So many times a loop: in process the loop itself would be seen beside the call.
REPEAT = {"in process": 10, "16 CPUs": 10, "unix socket": 1}


def part(place):
    """Return the name of the part that measures the calls of a place."""
    return f"calls ({place})"


def reading(name, place):
    """Return what the table calls a call at that place."""
    return f"{name}, {'in process' if place == '16 CPUs' else place}"


def measure(place, uri, library, rounds, batch):
    """Time all calls of a place, in this process."""
    import libvirt

    import pyvirhost
    from benchmarks.twin import Twin

    repeat = REPEAT[place]
    ours, theirs, twin = pyvirhost.open(uri), libvirt.open(uri), Twin(library, uri)
    found = []
    for name, call in PLACES[place].items():
        in_c = twin.timer(call.twin)
        seconds = alternate({
            OURS: python_timer(call.ours, call.setup, repeat, host=ours),
            THEIRS: python_timer(call.theirs, "", repeat, host=theirs),
            C: lambda loops, in_c=in_c: in_c(loops * repeat),
        }, rounds, batch)
        found += [(reading(name, place), contestant, "second", [value / repeat for value in values])
                  for contestant, values in seconds.items()]
    return found


if __name__ == "__main__":
    worker.answer(measure)

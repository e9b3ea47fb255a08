"""Round trips, counted on the socket by the proxy that the tests use."""

import proxy

from benchmarks import OURS, THEIRS, worker

PART, SETTING = "round trips", "round trips of setting"
FOUR = ("cpu_stats", "memory_stats", "free_memory", "node_info")
SNAPSHOT = "snapshot of 4"
SET = "set_memory_parameters"
READ = ("cpu_stats", "memory_stats", SNAPSHOT, "memory_parameters")
PAGES = "shm_pages_to_scan"


def calls(host):
    """Return by name the calls of a connection, whichever library's it is."""
    if hasattr(host, "getInfo"):
        pages = host.getMemoryParameters()[PAGES]
        return {
            "cpu_stats": lambda: host.getCPUStats(-1),
            "memory_stats": lambda: host.getMemoryStats(-1),
            SNAPSHOT: lambda: (host.getCPUStats(-1), host.getMemoryStats(-1),
                               host.getFreeMemory(), host.getInfo()),
            "memory_parameters": host.getMemoryParameters,
            # As it is: nothing changes.
            SET: lambda: host.setMemoryParameters({PAGES: pages}),
        }
    pages = host.memory_parameters()[PAGES]
    return {
        "cpu_stats": host.cpu_stats,
        "memory_stats": host.memory_stats,
        SNAPSHOT: lambda: host.snapshot(FOUR),
        "memory_parameters": host.memory_parameters,
        SET: lambda: host.set_memory_parameters({PAGES: pages}),
    }


def reading(name):
    """Return what the table calls a call's round trips."""
    return f"round trips: {name}"


class Socket:
    """What the proxy has to know of a daemon."""

    def __init__(self, path):
        self.socket = path


def measure(socket, path, names):
    """Count those of each of these calls, after a first one; setting something needs privileges."""
    import libvirt

    import pyvirhost

    found = []
    with proxy.Proxy(Socket(socket)) as counting:
        uri = f"qemu+unix:///{path}?socket={counting.path}"
        for contestant, open_one in ((OURS, pyvirhost.open), (THEIRS, libvirt.open)):
            host = open_one(uri)
            by_name = calls(host)
            for name in names:
                by_name[name]()
                counting.clear()
                by_name[name]()
                found.append((reading(name), contestant, "integer", [len(counting.calls)]))
            host.close()
    return found


if __name__ == "__main__":
    worker.answer(measure)

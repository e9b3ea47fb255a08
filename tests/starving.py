"""Do everything while each single allocation of Python's fails in turn.

    python starving.py LIBRARY [URI]

LIBRARY is starve.c, compiled. With the URI of a daemon's QEMU driver the calls are made to that
too. What is being done, how many allocations fail and after how many stands on stderr before, for
when it is the last.
"""

import contextlib
import ctypes
import os
import pickle
import sys

from daemon import wait_until
from test_connection import CALLS, DANGEROUS, PAIRED

import pyvirhost
from pyvirhost import _results
from pyvirhost._xml import parse

library = ctypes.PyDLL(sys.argv[1])
starve, feed = library.starve, library.feed
starve.argtypes = ctypes.c_long, ctypes.c_long
starve.restype = None
feed.restype = ctypes.c_long


def same(outcome):
    """What stays the same from one reading of the test driver to the next."""
    if isinstance(outcome, pyvirhost.LibvirtError):
        return type(outcome), vars(outcome)
    if isinstance(outcome, pyvirhost.HostSnapshot):
        contents = outcome.to_dict()
        del contents["started_at"], contents["monotonic_ns"], contents["duration_ns"]
        return contents
    if isinstance(outcome, pyvirhost.Connection):
        outcome.close()
        return type(outcome)
    return outcome


def same_kind(outcome):
    """What stays the same from one reading of a real host to the next."""
    if isinstance(outcome, pyvirhost.HostSnapshot):
        return outcome.fields, outcome.errors.keys()
    seen = same(outcome)
    return seen if isinstance(seen, tuple) else type(seen)


def attempt(operate, arguments):
    try:
        return operate(*arguments)
    except pyvirhost.LibvirtError as error:
        return error


def try_all(name, operate, seen=same, prepare=tuple):
    """Hold what comes of it, unless that is a MemoryError, against what comes of it otherwise.

    `prepare` returns the arguments of each attempt, while there is memory.
    """
    expected = seen(attempt(operate, prepare()))
    for failures in (1, 2, 1000):
        start = 0
        failed = True
        while failed:
            os.write(2, f"{name}: {failures} after {start}\n".encode())
            arguments = prepare()
            starve(start, failures)
            try:
                outcome = attempt(operate, arguments)
            except (MemoryError, pickle.PicklingError):  # which pickle makes of a MemoryError
                outcome = MemoryError
            except SystemError as error:
                # CPython 3.11's own, of functions in Python. Of one in C it says "returned NULL".
                # It says nothing where the second failure is the message's.
                own = {"error return without exception set"} | ({""} if failures > 1 else set())
                if str(error) not in own:
                    raise
                outcome = MemoryError
            failed = feed()
            assert outcome is MemoryError or seen(outcome) == expected, (name, outcome, expected)
            start += 1


def try_calls(uri, seen):
    calls = {name: CALLS[name]
             for name in sorted({*CALLS} - PAIRED - (DANGEROUS if seen is same_kind else set()))}
    for name, arguments in calls.items():
        files = os.listdir("/proc/self/fd")
        with pyvirhost.open(uri) as host:
            # What the server teaches is learned in the first of them.
            try_all(f"{name} of {uri}", lambda: getattr(host, name)(*arguments), seen)  # noqa: B023
        # A call that did not let go of the connection keeps it open.
        wait_until(lambda: os.listdir("/proc/self/fd") == files, f"{name} to close")  # noqa: B023
    files = os.listdir("/proc/self/fd")
    try_all(f"open {uri}", lambda: pyvirhost.open(uri).close(), seen)
    wait_until(lambda: os.listdir("/proc/self/fd") == files, "open to close")
    try_callbacks(uri)
    with pyvirhost.open(uri) as host:
        stats, table = host.cpu_stats(), host.per_cpu_stats()
        everything = host.snapshot(pyvirhost.ALL_FIELDS)
        try_all("cpu_stats(out=)", lambda: host.cpu_stats(out=stats), seen)
        try_all("per_cpu_stats(out=)", lambda: host.per_cpu_stats(out=table), seen)
        try_all("snapshot(ALL_FIELDS)", lambda: host.snapshot(pyvirhost.ALL_FIELDS), seen)
        try_all("snapshot(page_sizes=)", lambda: host.snapshot(page_sizes=[4]), seen)
        try_all("snapshot(out=)", lambda: host.snapshot(pyvirhost.ALL_FIELDS, out=everything), seen)
        later = host.snapshot(pyvirhost.ALL_FIELDS)
        try_all("rates", lambda: later.rates(everything))


def try_callbacks(uri):
    def callback(connection, reason):
        pass

    def register(connection):
        registered[0] = False
        connection.register_close_callback(callback)
        registered[0] = True

    def without_callback(connection):
        try:
            connection.unregister_close_callback()
        except ValueError:
            assert not registered[0]
        else:
            assert registered[0]
        return (connection,)

    def with_callback(connection):
        with contextlib.suppress(ValueError):  # it could not be unregistered
            connection.register_close_callback(callback)
        return (connection,)

    registered = [False]
    files = os.listdir("/proc/self/fd")
    with pyvirhost.open(uri) as host:
        try_all(f"register_close_callback of {uri}", register,
                prepare=lambda: without_callback(host))
        try_all(f"unregister_close_callback of {uri}",
                lambda host: host.unregister_close_callback(),
                prepare=lambda: with_callback(host))
    # None is dropped: CPython 3.11 dies where it has no memory for a ResourceWarning.
    try_all(f"close of {uri}", lambda host: host.close(),
            prepare=lambda: with_callback(pyvirhost.open(uri)))
    wait_until(lambda: os.listdir("/proc/self/fd") == files, "those with a callback to close")


def operations_on(result):
    """What can be done with it, by a name for each."""
    kind = type(result)
    yield "repr", lambda: repr(result)
    yield "==", lambda: result == result
    yield "reduce", lambda: result.__reduce__()[1]
    yield "dumps", lambda: pickle.dumps(result)
    pickled = pickle.dumps(result)
    yield "loads", lambda: pickle.loads(pickled)
    yield "to_dict", lambda: result.to_dict()
    for method in ("__hash__", "__len__", "__bytes__"):
        if getattr(kind, method, None) is not None:
            yield method, lambda method=method: getattr(kind, method)(result)
    for method in ("__iter__", "keys", "values", "items"):
        if hasattr(kind, method):
            yield method, lambda method=method: list(getattr(kind, method)(result))
    if kind.__name__ in ("CPUStats", "MemoryStats", "StatsTable", "CPUMap", "CellsFreeMemory",
                         "PageCounts"):
        yield "memoryview", lambda: memoryview(result).tolist()
    for key in (0, "user", (1, 4), "b", -1, slice(None)):
        try:
            result[key]
        except (LookupError, TypeError):
            continue
        yield f"[{key}]", lambda key=key: result[key]


def try_results():
    with pyvirhost.open("test:///default") as host:
        results = [
            host.node_info(), host.cpu_map(), host.cpu_stats(), host.per_cpu_stats(),
            host.cells_free_memory(), host.free_pages([4, 2048]), host.lib_version(),
            host.snapshot(pyvirhost.ALL_FIELDS), host.snapshot(["free_memory"]),
            pyvirhost.SecurityModel("model", "doi"),
            # None of them is among the small numbers of which Python has one each.
            _results._restore_cells_free_memory(0, tuple(range(1000, 1020))),  # type: ignore[attr-defined]
            _results._restore_stats_table(  # type: ignore[attr-defined]
                tuple(range(1000, 1020)), ("a", "b"), "ns", tuple(range(1000, 1040))),
            _results._restore_page_counts((1000, 2000), 0, 10, tuple(range(1000, 1020))),  # type: ignore[attr-defined]
            _results._restore_typed_parameters(  # type: ignore[attr-defined]
                {"a": 1000, "b": 1.5, "c": "text", "d": True},
                {"a": "uint", "b": "double", "c": "string", "d": "boolean"})]
    for result in results:
        for name, operate in operations_on(result):
            try_all(f"{name} of {type(result).__name__}", operate)
    try_all("XML", lambda: parse("<a><b c='d'/></a>", "").find("b").get("c"))
    try_all("bad XML", lambda: parse("<a><b c='d'></a>", ""))


library.install()
try_results()
try_calls("test:///default", same)
if len(sys.argv) > 2:
    try_calls(sys.argv[2], same_kind)
os.write(2, b"all done\n")

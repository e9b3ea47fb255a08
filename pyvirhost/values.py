"""Results as JSON-ready data: bytes, seconds and ratios, as each key says.

This is the only place that converts. What JSON can't hold is None, with a reason beside it.
"""

import math
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

from pyvirhost.constants import CPUCompareResult

if TYPE_CHECKING:
    import pyvirhost

KIB = 1024

Values = dict[str, Any]
Errors = dict[str, dict[str, str]]
"""For the key of each missing value, the type of the exception and its message."""


def error_values(error: BaseException, message: str | None = None) -> dict[str, str]:
    """Return an error's type, and its message or else `message`."""
    return {"type": type(error).__name__, "message": str(error) if message is None else message}


def placed(errors: Errors, place: str) -> Errors:
    """Return errors by their places in larger data."""
    return {f"{place}.{key}": error for key, error in errors.items()}


def with_errors(values: Values, errors: Errors) -> Values:
    """Return values with the errors that explain those that are None, if any are."""
    return {**values, "errors": errors} if errors else values


def without_errors(values: Mapping[str, Any]) -> Values:
    """Return the values without the errors."""
    return {name: value for name, value in values.items() if name != "errors"}


# ---- CPUs ---------------------------------------------------------------------------------------

def node_values(info: "pyvirhost.NodeInfo") -> Values:
    """Return a host's node information."""
    return {
        "model": info.model,
        "memory_bytes": info.memory_bytes,
        "cpus": info.cpus,
        "mhz": info.mhz,
        "nodes": info.nodes,
        "sockets": info.sockets,
        "cores": info.cores,
        "threads": info.threads,
        "max_cpus": info.max_cpus,
    }


def cpu_map_values(cpu_map: "pyvirhost.CPUMap") -> Values:
    """Return a CPU map."""
    return {"present": cpu_map.present, "online": cpu_map.online, "online_cpus": list(cpu_map)}


def in_seconds(stats: "pyvirhost.CPUStats") -> dict[str, int | float]:
    """Return CPU statistics in seconds, and the utilization in percent."""
    values: dict[str, int | float] = {
        f"{field}_seconds": time for field, time in stats.in_seconds().items()}
    if stats.utilization is not None:
        values["utilization_percent"] = stats.utilization
    return values


def rates_values(rates: "pyvirhost.HostRates") -> Values:
    """Return the shares of CPU time; all but the guests' add up to 1."""
    values: Values = {"cpu": shares(rates.cpu)}
    if rates.per_cpu is not None:
        values["per_cpu"] = [{"cpu": cpu, **(shares(one) or {"busy_ratio": None})}
                             for cpu, one in rates.per_cpu.items()]
    return values


def shares(rates: "pyvirhost.CPURates | None") -> dict[str, float] | None:
    """Return a CPU's shares, those that its host reports."""
    return None if rates is None else {
        f"{mode}_ratio": round(share, 6)
        for mode, share in rates.to_dict().items() if share is not None}


def in_percent(rates: "pyvirhost.CPURates | None", fields: Mapping[str, int]
               ) -> dict[str, float | None]:
    """Return shares in percent: how busy the CPU was, and each of its `fields`."""
    known = {} if rates is None else rates.to_dict()
    values = {name: known.get(name)
              for name in ("busy", *(field for field in fields if field != "utilization"))}
    return {f"{name}_percent": share if share is None else round(share * 100, 3)
            for name, share in values.items()}


def comparison_values(result: int) -> dict[str, str]:
    """Return how a host's CPU compares to another one, in a word."""
    words: dict[int, str] = {
        CPUCompareResult.IDENTICAL: "identical",
        CPUCompareResult.SUPERSET: "superset",
        CPUCompareResult.INCOMPATIBLE: "incompatible",
    }
    return {"host_cpu": words.get(result, "unknown")}


# ---- memory -------------------------------------------------------------------------------------

def in_bytes(stats: "pyvirhost.MemoryStats") -> dict[str, int]:
    """Return memory statistics in bytes."""
    return {f"{field}_bytes": size for field, size in stats.in_bytes().items()}


def page_values(counts: Mapping[int, int]) -> list[dict[str, int]]:
    """Return a cell's free pages, given by their size in KiB."""
    return [{"page_size_bytes": size * KIB, "free": free} for size, free in counts.items()]


def free_huge_pages(snapshot: "pyvirhost.HostSnapshot") -> dict[int, int]:
    """Return how many pages are free in all cells, by size in bytes, the biggest first.

    The smallest size that was read is that of ordinary pages, and is left out.
    """
    counts = snapshot.free_pages
    if counts is None:
        return {}
    columns = zip(*memoryview(counts).tolist(), strict=True)
    free = {size: sum(column) for size, column in zip(counts.page_sizes, columns, strict=False)}
    return {size * KIB: free[size] for size in sorted(free, reverse=True)[:-1]}


def memory_in_use(snapshot: "pyvirhost.HostSnapshot") -> tuple[int | None, int | None]:
    """Return how many bytes of memory are in use, and how many there are.

    Free memory and caches are not in use, nor are free huge pages, which wait for guests.
    """
    stats, info = snapshot.memory_stats, snapshot.node_info
    sizes = {} if stats is None else stats.in_bytes()
    if "total" in sizes and "free" in sizes:
        total = sizes["total"]
        spare = sizes.get("available")
        if spare is None:
            spare = sizes["free"] + sizes.get("buffers", 0) + sizes.get("cached", 0)
    else:
        if info is None or snapshot.free_memory is None:
            return None, None if info is None else info.memory_bytes
        total, spare = info.memory_bytes, snapshot.free_memory
    # None of these numbers includes huge pages: Linux excludes the whole pool, free or not, from
    # MemFree, which libvirt's free memory sums up, and from MemAvailable.
    huge = sum(size * free for size, free in free_huge_pages(snapshot).items())
    if huge <= total:  # the test driver reports a thousand times as much
        spare += huge
    return max(total - spare, 0), total


# ---- typed parameters ---------------------------------------------------------------------------

_KSM_NUMBERS = frozenset({
    "pages_to_scan", "sleep_millisecs", "pages_shared", "pages_sharing", "pages_unshared",
    "pages_volatile", "full_scans", "merge_across_nodes"})


def parameter_values(parameters: Mapping[str, Any], numbers: Container[str] = ()
                     ) -> tuple[Values, Errors]:
    """Return typed parameters, and why some of them are None.

    Parameters
    ----------
    parameters : mapping of str
    numbers : container of str
        The names of those that must not be texts.
    """
    values: Values = {}
    errors: Errors = {}
    for name, value in parameters.items():
        problem = None
        if isinstance(value, float) and not math.isfinite(value):
            problem = f"the server sent {value}, which is not a finite number"
        elif isinstance(value, str) and name in numbers:
            problem = "the server sent a text instead of a number"
        values[name] = value if problem is None else None
        if problem is not None:
            errors[name] = error_values(ValueError(problem))
    return values, errors


def ksm_values(parameters: Mapping[str, Any]) -> tuple[Values, Errors]:
    """Return the memory parameters, which are all KSM's, and why some of them are None."""
    found, problems = parameter_values(
        {name.removeprefix("shm_"): value for name, value in parameters.items()}, _KSM_NUMBERS)
    values: Values = {}
    errors: Errors = {}
    for name, value in found.items():
        key = "sleep_seconds" if name == "sleep_millisecs" else name
        if name in problems:
            values[key], errors[key] = None, problems[name]
        elif name == "sleep_millisecs":
            values[key] = float(value) / 1000
        elif name == "merge_across_nodes":
            values[key] = bool(value)
        else:
            values[key] = value
    return values, errors


# ---- snapshots and samples ----------------------------------------------------------------------

def sample_values(sample: "pyvirhost.Sample") -> Values:
    """Return a sample.

    Returns
    -------
    dict of str
        ``host``, ``started_at`` in seconds since the epoch, ``duration_seconds``, ``error`` (None,
        or its ``type`` and ``message``). If the host answered, also its fields, None if they could
        not be read, ``errors`` that say why, and ``rates`` from its second sample on.
    """
    values: Values = {
        "host": sample.host,
        "started_at": round(sample.started_at, 3),
        "duration_seconds": round(sample.duration, 6),
        "error": None if sample.error is None else error_values(sample.error),
    }
    if sample.snapshot is not None:
        values |= snapshot_values(sample.snapshot)
        values["rates"] = None if sample.rates is None else rates_values(sample.rates)
    return values


def snapshot_values(snapshot: "pyvirhost.HostSnapshot") -> Values:
    """Return a snapshot's fields under their names, and its errors."""
    values: Values = {}
    errors = {name: error_values(error) for name, error in snapshot.errors.items()}
    for name in snapshot.fields:
        field = getattr(snapshot, name)
        key, show = _FIELDS[name]
        values[key] = None if field is None else show(field)
    _, problems = ksm_values(snapshot.memory_parameters or {})
    values["errors"] = errors | placed(problems, "memory_parameters")
    return values


def numbered(word: str, show: Callable[[Any], Mapping[str, Any]]
             ) -> Callable[[Mapping[int, Any]], list[Values]]:
    """Return a function that makes a list of numbered objects from a mapping by number."""
    return lambda entries: [{word: number, **show(entry)} for number, entry in entries.items()]


# For each field of a snapshot, its key, and the function that makes JSON-ready data of it.
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "node_info": ("node_info", node_values),
    "cpu_stats": ("cpu_stats", in_seconds),
    "cpu_map": ("cpu_map", cpu_map_values),
    "per_cpu_stats": ("per_cpu_stats", numbered("cpu", in_seconds)),
    "memory_stats": ("memory_stats", in_bytes),
    "free_memory": ("free_memory_bytes", int),
    "cells_free_memory": ("cells_free_memory", numbered(
        "cell", lambda free: {"free_bytes": free})),
    "per_cell_memory_stats": ("per_cell_memory_stats", numbered("cell", in_bytes)),
    "free_pages": ("free_pages", lambda counts: numbered(
        "cell", lambda pages: {"free_pages": page_values(pages)})(counts.to_dict())),
    "memory_parameters": ("memory_parameters", lambda parameters: ksm_values(parameters)[0]),
}

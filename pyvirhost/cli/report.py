"""What a host is, has and does, in one report: as JSON-ready data and as text.

`collect` reads a host and `sections` shows what it read. Only the text needs humanize, from the
extra ``pyvirhost[cli]``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyvirhost
from pyvirhost.cli.text import (
    NOT_SUPPORTED,
    UNKNOWN,
    Section,
    Whole,
    counted,
    duration,
    ranges,
    size,
    yes_or_no,
)
from pyvirhost.values import (
    Errors,
    cpu_map_values,
    error_values,
    in_bytes,
    in_seconds,
    ksm_values,
    node_values,
    page_values,
    placed,
)

if TYPE_CHECKING:
    from pyvirhost import Connection

T = TypeVar("T")
Report = dict[str, Any]

MAX_CELLS = 1024
"""The most NUMA cells that libvirt's protocol can carry."""


# ---- reading ------------------------------------------------------------------------------------

def collect(connection: "Connection") -> Report:
    """Read everything that the report shows.

    What can't be read is None and never fails the report; ``errors`` says why. Memory is in bytes
    and time in seconds; their keys say so.

    Parameters
    ----------
    connection : Connection
        May be read-only.

    Returns
    -------
    dict of str
        Always with these keys. Values marked ? may be None.

        - ``identity``: ``hostname`` ?, ``uri`` ?, ``driver`` ?, ``hypervisor_version`` ?,
          ``libvirt_version`` ? (both as in ``"9.0.0"``; the server's libvirt), ``secure`` ?,
          ``encrypted`` ?
        - ``node`` ?: ``model``, ``memory_bytes``, ``cpus``, ``mhz``, ``nodes``, ``sockets``,
          ``cores``, ``threads``, ``max_cpus``, with the meanings of `NodeInfo`
        - ``cpu_map`` ?: ``present`` and ``online``, how many, and ``online_cpus``, their numbers
        - ``cpu_time``: ``total`` ?, since the host booted, and ``per_cpu`` ?, a list of the same
          for each online CPU, with its number as ``cpu``. A time has the fields that the server
          reports: ``user_seconds``, ``kernel_seconds``, ``idle_seconds``, ``iowait_seconds`` and,
          if it knows them, ``guest_seconds`` (part of the user's), ``intr_seconds``,
          ``utilization_percent``
        - ``memory``: ``free_bytes`` ? and ``stats`` ?, which has the fields that the server
          reports: ``total_bytes``, ``free_bytes``, ``buffers_bytes``, ``cached_bytes`` and, if it
          knows it, ``available_bytes``
        - ``cells`` ?: a list, for each NUMA cell ``cell``, its number, ``free_bytes`` ?, ``stats``
          ? (``total_bytes``, ``free_bytes``) and ``free_pages`` ?, a list of ``page_size_bytes``
          and ``free``, how many
        - ``ksm`` ?: ``pages_to_scan``, ``sleep_seconds``, ``pages_shared``, ``pages_sharing``,
          ``pages_unshared``, ``pages_volatile``, ``full_scans``, ``merge_across_nodes`` (a bool),
          as far as the host's kernel has them; None if the server does not send a number
        - ``security_model`` ?: ``model``, ``doi``
        - ``errors``: for the place of each None, such as ``"ksm"``, ``"memory.stats"`` or, for all
          cells, ``"cells.free_pages"``, the ``type`` of the exception and its ``message``

    Raises
    ------
    ConnectionLostError, ConnectionClosedError
        There is nothing left to read from.

    Examples
    --------
    >>> with pyvirhost.open("test:///default", readonly=True) as connection:
    ...     collect(connection)["node"]["memory_bytes"]
    3221225472
    """
    errors: Errors = {}

    def read(place: str, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except (pyvirhost.ConnectionLostError, pyvirhost.ConnectionClosedError):
            raise
        except pyvirhost.LibvirtError as error:
            errors[place] = error_values(error)
            return None

    identity = {
        "hostname": read("identity.hostname", connection.hostname),
        "uri": read("identity.uri", connection.uri),
        "driver": read("identity.driver", connection.type),
        "hypervisor_version": read(
            "identity.hypervisor_version", lambda: str(connection.version())),
        "libvirt_version": read("identity.libvirt_version", lambda: str(connection.lib_version())),
        "secure": read("identity.secure", connection.is_secure),
        "encrypted": read("identity.encrypted", connection.is_encrypted),
    }
    node = read("node", lambda: node_values(connection.node_info()))
    cpu_map = read("cpu_map", lambda: cpu_map_values(connection.cpu_map()))
    total = read("cpu_time.total", lambda: in_seconds(connection.cpu_stats()))
    per_cpu = read("cpu_time.per_cpu", lambda: [
        {"cpu": cpu, **in_seconds(times)} for cpu, times in connection.per_cpu_stats().items()])
    memory = {
        "free_bytes": read("memory.free_bytes", connection.free_memory),
        "stats": read("memory.stats", lambda: in_bytes(connection.memory_stats())),
    }

    free = read("cells.free_bytes", lambda: list(connection.cells_free_memory().values()))
    cells = count = None
    if free is not None:
        count = len(free)
    elif node is not None:
        count = read("cells", lambda: checked_count(node["nodes"]))
    if count is None:
        refusal = errors.pop("cells.free_bytes")
        errors.setdefault("cells", refusal)
    else:
        stats = read("cells.stats", lambda: [
            in_bytes(connection.memory_stats(cell)) for cell in range(count)])
        pages = read("cells.free_pages", lambda: free_pages(connection))
        cells = [
            {
                "cell": cell,
                "free_bytes": free and free[cell],
                "stats": stats and stats[cell],
                "free_pages": pages and pages.get(cell, []),
            }
            for cell in range(count)
        ]

    ksm = None
    parameters = read("ksm", connection.memory_parameters)
    if parameters is not None:
        ksm, problems = ksm_values(parameters)
        errors |= placed(problems, "ksm")

    return {
        "identity": identity,
        "node": node,
        "cpu_map": cpu_map,
        "cpu_time": {"total": total, "per_cpu": per_cpu},
        "memory": memory,
        "cells": cells,
        "ksm": ksm,
        "security_model": read("security_model", lambda: dict(
            zip(("model", "doi"), connection.security_model(), strict=True))),
        "errors": errors,
    }


def checked_count(nodes: int) -> int:
    """Return how many cells a host claims to have, or raise if that is too many."""
    from pyvirhost._errors import server_error

    if nodes > MAX_CELLS:
        raise server_error("virNodeGetInfo", f"more than {MAX_CELLS} NUMA cells")
    return nodes


def free_pages(connection: "Connection", sizes: Sequence[int] | None = None
               ) -> dict[int, list[dict[str, int]]]:
    """Return how many pages are free in each cell, of the given sizes in KiB or of all sizes."""
    snapshot = connection.snapshot(["free_pages"], page_sizes=sizes)
    for error in snapshot.errors.values():
        raise error
    assert snapshot.free_pages is not None
    return {cell: page_values(counts) for cell, counts in snapshot.free_pages.to_dict().items()}


# ---- showing ------------------------------------------------------------------------------------

def sections(report: Report) -> Iterable[Section]:
    """Return a report's sections as text, in display order.

    Parameters
    ----------
    report : dict
        What `collect` returned, even after a trip through JSON.
    """
    errors = report["errors"]

    def refusal(place: str) -> str:
        error = errors[place]
        return NOT_SUPPORTED if error["type"] == "NotSupportedError" else error["message"]

    def value(place: str, show: Callable[[Any], str] = str) -> str:
        found = report
        for key in place.split("."):
            found = found[key]
        return refusal(place) if found is None else show(found)

    def whole(title: str, place: str, pairs: Callable[[Any], list[tuple[str, str]]]) -> Section:
        if report[place] is None:
            return Section(f"{title}: {refusal(place)}")
        return Section(title, pairs(report[place]))

    return [
        Section("Identity", [
            ("Hostname", value("identity.hostname")),
            ("URI", value("identity.uri")),
            ("Driver", value("identity.driver")),
            ("Hypervisor version", value("identity.hypervisor_version")),
            ("libvirt version", value("identity.libvirt_version")),
            ("Secure", value("identity.secure", yes_or_no)),
            ("Encrypted", value("identity.encrypted", yes_or_no)),
        ]),
        whole("Node", "node", node_pairs),
        whole("CPU map", "cpu_map", cpu_map_pairs),
        cpu_time_section(report["cpu_time"], refusal),
        Section("Memory", [
            ("Free", value("memory.free_bytes", lambda free: share_of_memory(free, report))),
            ("Statistics", value("memory.stats", lambda stats: ", ".join(
                f"{size(amount)} {field.removesuffix('_bytes')}"
                for field, amount in stats.items()))),
        ]),
        cells_section(report["cells"], errors, refusal),
        whole("KSM", "ksm", ksm_pairs),
        whole("Security model", "security_model", lambda model: [
            ("Model", model["model"] or "none"), ("DOI", model["doi"] or "none")]),
    ]


def node_pairs(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the node information."""
    frequency = f" at {node['mhz']} MHz" if node["mhz"] else ""
    topology = " x ".join(counted(node[f"{part}s"], part)
                          for part in ("node", "socket", "core", "thread"))
    return [
        ("Model", node["model"]),
        ("Memory", size(node["memory_bytes"])),
        ("CPUs", f"{node['cpus']}{frequency}"),
        ("Topology", f"{topology}, room for {counted(node['max_cpus'], 'CPU')}"),
    ]


def cpu_map_pairs(cpu_map: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the CPU map."""
    online, offline = cpu_map["online_cpus"], offline_cpus(cpu_map)
    return [
        ("Present", str(cpu_map["present"])),
        ("Online", Whole(f"{len(online)}: {ranges(online)}") if online else "0"),
        ("Offline", Whole(f"{len(offline)}: {ranges(offline)}") if offline else "0"),
    ]


def offline_cpus(cpu_map: Mapping[str, Any]) -> list[int]:
    """Return the CPUs that are present but not online."""
    return sorted(set(range(cpu_map["present"])).difference(cpu_map["online_cpus"]))


def cpu_time_section(cpu_time: Mapping[str, Any], refusal: Callable[[str], str]) -> Section:
    """Return the times of all CPUs together and of each one, with their shares."""
    pairs, header, rows = [], [], []
    if cpu_time["total"] is None:
        pairs.append(("All CPUs", refusal("cpu_time.total")))
    else:
        rows.append(("all", cpu_time["total"]))
    if cpu_time["per_cpu"] is None:
        pairs.append(("Each CPU", refusal("cpu_time.per_cpu")))
    else:
        rows += [(str(row["cpu"]), {field: time for field, time in row.items() if field != "cpu"})
                 for row in cpu_time["per_cpu"]]
    if rows:
        header = ["CPU", *(field.rpartition("_")[0].capitalize() for field in rows[0][1])]
    return Section("CPU time since boot", pairs, header,
                   [[cpu, *time_cells(times)] for cpu, times in rows])


def time_cells(times: Mapping[str, float]) -> list[str]:
    """Return each time with its share of the total."""
    # Guests' time is part of the user's.
    whole = sum(time for field, time in times.items()
                if field.endswith("_seconds") and field != "guest_seconds")
    return [
        f"{duration(time)} {time / (whole or 1):6.1%}" if field.endswith("_seconds") else f"{time}%"
        for field, time in times.items()
    ]


def cells_section(cells: Sequence[Mapping[str, Any]] | None, errors: Mapping[str, Any],
                  refusal: Callable[[str], str]) -> Section:
    """Return the memory and pages of each NUMA cell."""
    from humanize import intcomma

    if cells is None:
        return Section(f"NUMA cells: {refusal('cells')}")
    pairs = [(label, refusal(place)) for label, place in (
        ("Free memory", "cells.free_bytes"),
        ("Statistics", "cells.stats"),
        ("Free pages", "cells.free_pages"),
    ) if place in errors]
    rows = []
    for cell in cells:
        # Free memory is also among the statistics, but some drivers have only one of the two.
        row = {"Free": size(cell["free_bytes"])} if cell["free_bytes"] is not None else {}
        for field, amount in (cell["stats"] or {}).items():
            row.setdefault(field.removesuffix("_bytes").capitalize(), size(amount))
        for pages in cell["free_pages"] or ():
            row[f"Free {size(pages['page_size_bytes'], '%.0f')} pages"] = intcomma(pages["free"])
        rows.append((str(cell["cell"]), row))
    titles = list(dict.fromkeys(title for _, row in rows for title in row))
    if not titles:
        return Section("NUMA cells", [("Cells", str(len(cells))), *pairs])
    return Section("NUMA cells", pairs, ["Cell", *titles],
                   [[cell, *(row.get(title, "") for title in titles)] for cell, row in rows])


def ksm_pairs(ksm: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the KSM parameters."""
    from humanize import intcomma

    pairs = []
    for key, value in ksm.items():
        if value is None:
            shown = UNKNOWN
        elif key == "sleep_seconds":
            shown = duration(value)
        elif isinstance(value, bool):
            shown = yes_or_no(value)
        else:
            shown = value if isinstance(value, str) else intcomma(value)
        label = "Sleep" if key == "sleep_seconds" else key.replace("_", " ").capitalize()
        pairs.append((label, shown))
    return pairs


def share_of_memory(amount: int, report: Report) -> str:
    """Return a number of bytes and what part of the host's memory it is."""
    memory = report["node"] and report["node"]["memory_bytes"]
    return f"{size(amount)} of {size(memory)} ({amount / memory:.1%})" if memory else size(amount)

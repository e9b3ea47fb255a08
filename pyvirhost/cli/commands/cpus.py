"""Commands about CPUs."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyvirhost.cli.arguments import number, seconds
from pyvirhost.cli.commands.command import CPUS, Arguments, Command, Parser, Row
from pyvirhost.cli.report import offline_cpus, time_cells
from pyvirhost.cli.text import UNKNOWN, Whole, ranges, size
from pyvirhost.constants import ALL_CPUS
from pyvirhost.values import cpu_map_values, in_percent, in_seconds, node_values

if TYPE_CHECKING:
    from pyvirhost import Connection


def nodeinfo_row(node: Any) -> Row:
    """Show the node information."""
    return {
        "Model": node["model"],
        "CPUs": str(node["cpus"]),
        "Frequency": f"{node['mhz']} MHz",
        "NUMA cells": str(node["nodes"]),
        "Sockets per cell": str(node["sockets"]),
        "Cores per socket": str(node["cores"]),
        "Threads per core": str(node["threads"]),
        "Memory": size(node["memory_bytes"]),
    }


def cpu_map_row(cpu_map: Any) -> Row:
    """Show the CPU map."""
    return {
        "Present": str(cpu_map["present"]),
        "Online": str(cpu_map["online"]),
        "Online CPUs": Whole(ranges(cpu_map["online_cpus"]) or "none"),
        "Offline CPUs": Whole(ranges(offline_cpus(cpu_map)) or "none"),
    }


def cpu_stats_arguments(parser: Parser) -> None:
    """Add the arguments of nodecpustats."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cpu", type=number, metavar="N", help="one CPU instead of all together")
    which.add_argument("--per-cpu", action="store_true", help="each online CPU")
    parser.add_argument(
        "--percent", action="store_true", help="shares of the time during an interval, not times "
        "since boot")
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="SECONDS",
        help="the length of that interval (default: 1)")


def read_cpu_stats(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read CPU times since boot, or shares of the time during the interval."""
    if arguments.percent:
        return read_cpu_rates(connection, arguments)
    if arguments.per_cpu:
        return {"cpus": [{"cpu": cpu, **in_seconds(times)}
                         for cpu, times in connection.per_cpu_stats().items()]}
    if arguments.cpu is not None:
        return {"cpu": arguments.cpu, **in_seconds(connection.cpu_stats(arguments.cpu))}
    return dict(in_seconds(connection.cpu_stats(ALL_CPUS)))


def read_cpu_rates(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read what the CPUs did during an interval, in percent; None if unknown."""
    each = arguments.per_cpu or arguments.cpu is not None

    def snapshot() -> Any:
        found = connection.snapshot(["per_cpu_stats" if each else "cpu_stats"])
        for error in found.errors.values():
            raise error
        return found

    earlier = snapshot()
    time.sleep(arguments.interval)
    later = snapshot()
    rates = later.rates(earlier)
    interval = {"interval_seconds": (later.monotonic_ns - earlier.monotonic_ns) / 1e9}
    if not each:
        return {**interval, **in_percent(rates.cpu, later.cpu_stats)}
    cpus = {cpu: in_percent(rates.per_cpu[cpu], times)
            for cpu, times in later.per_cpu_stats.items()}
    if arguments.per_cpu:
        return {**interval, "cpus": [{"cpu": cpu, **shares} for cpu, shares in cpus.items()]}
    if arguments.cpu not in cpus:
        # The server knows best what is wrong with that number.
        connection.cpu_stats(arguments.cpu)
        raise ValueError(f"CPU {arguments.cpu} is offline")
    return {"cpu": arguments.cpu, **interval, **cpus[arguments.cpu]}


def cpu_stats_rows(data: Any) -> Row | Sequence[Row]:
    """Show CPU times with their shares, or shares alone."""
    rows = []
    for cpu in data.get("cpus", [data]):
        row = {"CPU": str(cpu["cpu"])} if "cpu" in cpu else {}
        times = {key: value for key, value in cpu.items()
                 if key not in ("cpu", "interval_seconds")}
        titles = [key.rpartition("_")[0].capitalize() for key in times]
        if all(key.endswith("_percent") for key in times):
            cells = [UNKNOWN if share is None else f"{share:.1f}%" for share in times.values()]
        else:
            cells = time_cells(times)
        rows.append(row | dict(zip(titles, cells, strict=True)))
    return rows if "cpus" in data else rows[0]


def read_cpu_models(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the CPU models that libvirt knows for an architecture, by default the host's own."""
    arch = arguments.arch or connection.node_info().model
    return {"arch": arch, "models": connection.cpu_model_names(arch)}


COMMANDS = [
    Command(
        name="nodeinfo", group=CPUS, help="CPUs, their topology, and memory",
        read=lambda connection, arguments: node_values(connection.node_info()),
        rows=nodeinfo_row,
    ),
    Command(
        name="nodecpumap", group=CPUS, help="which CPUs are online",
        read=lambda connection, arguments: cpu_map_values(connection.cpu_map()),
        rows=cpu_map_row,
    ),
    Command(
        name="nodecpustats", group=CPUS, help="what the CPUs have done since boot, or do now",
        read=read_cpu_stats, rows=cpu_stats_rows, arguments=cpu_stats_arguments,
        lasts=lambda arguments: arguments.interval if arguments.percent else 0.0,
        examples=("nodecpustats --percent --watch 5", "nodecpustats --per-cpu --json"),
    ),
    Command(
        name="maxvcpus", group=CPUS, help="how many virtual CPUs a guest may have",
        read=lambda connection, arguments: {"max_vcpus": connection.max_vcpus(arguments.type)},
        rows=lambda data: {"vCPUs": str(data["max_vcpus"])},
        arguments=lambda parser: parser.add_argument(
            "--type", help="kind of domain, such as kvm or qemu"),
    ),
    Command(
        name="cpu-models", group=CPUS, help="the CPU models that libvirt knows",
        read=read_cpu_models, rows=lambda data: [{"Model": name} for name in data["models"]],
        arguments=lambda parser: parser.add_argument(
            "arch", nargs="?", metavar="ARCH",
            help="the architecture, such as x86_64; by default the host's own"),
    ),
]

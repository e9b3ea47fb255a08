"""The table of commands: what each reads from a host, and how that looks.

A command is a function that reads JSON-ready data, in bytes and seconds as in `report`, a function
that makes rows of text from the data, and a line in `COMMANDS`.
"""

import argparse
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import pyvirhost
from pyvirhost._xml import BoundError, parse
from pyvirhost._xml import read as read_xml
from pyvirhost.constants import (
    ALL_CPUS,
    AllocPagesFlags,
    BaselineCPUFlags,
    CompareCPUFlags,
    NodeSuspendTarget,
)
from pyvirhost.fleet import Answer, Fleet
from pyvirhost.hosts import Host, seconds_value
from pyvirhost.report import (
    collect,
    free_pages,
    ksm_pairs,
    offline_cpus,
    sections,
    time_cells,
)
from pyvirhost.text import (
    NOT_SUPPORTED,
    UNKNOWN,
    Section,
    Whole,
    counted,
    duration,
    ranges,
    size,
)
from pyvirhost.values import (
    KIB,
    Errors,
    comparison_values,
    cpu_map_values,
    in_bytes,
    in_percent,
    in_seconds,
    ksm_values,
    node_values,
    parameter_values,
)

if TYPE_CHECKING:
    from pyvirhost import Connection

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser
Row = Mapping[str, str]

WORDS = frozenset({
    "Host", "Error", "Model", "Hostname", "URI", "Driver", "Online CPUs", "Offline CPUs",
    "Parameter", "Architecture", "CPU of the host", "Was sent to",
})
"""The titles of columns that hold words, not numbers."""


class Command(NamedTuple):
    """What one command is: how it reads a host, and `rows` or `text` to show that."""

    name: str
    group: str
    help: str
    read: Callable[["Connection", Arguments], Any] = lambda connection, arguments: {}
    """Return JSON-ready data, always a dict."""
    rows: Callable[[Any], Row | Sequence[Row]] | None = None
    """Make a row of text from the data, by column, or several of them."""
    text: Callable[[Any], str] | None = None
    """Make text of several lines, in place of `rows`."""
    sections: Callable[[Any], Sequence[Section]] | None = None
    """Show a single host, in place of `rows`."""
    arguments: Callable[[Parser], object] = lambda parser: None
    check: Callable[[Arguments, Sequence[Host]], str | None] = lambda arguments, hosts: None
    """Say what is wrong with arguments that are right on their own."""
    examples: Sequence[str] = ()
    writes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether a read-only connection won't do, as libvirt sees it."""
    question: Callable[[Arguments], str | None] = lambda arguments: None
    """What to ask a person first."""
    changes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether the host is another afterwards, so that repeating it is no watching."""
    lasts: Callable[[Arguments], float] = lambda arguments: 0.0
    """How many seconds reading takes on purpose."""
    failed: Callable[[Any], bool] = lambda data: False
    """Whether an answer, though there is one, is a failure to the exit status."""
    ask: Callable[[Fleet, Arguments], list[Answer]] | None = None
    """Ask the hosts in another way than each on its own."""
    joins: Callable[[Arguments], bool] = lambda arguments: False
    """Whether all hosts have one answer together."""
    run: Callable[[Sequence[Host], Arguments], int] | None = None
    """Do all of it, and return the exit status."""


# ---- who the host is ----------------------------------------------------------------------------

def read_version(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Read the versions of all that takes part."""
    return {
        "pyvirhost_version": pyvirhost.__version__,
        "library_version": str(pyvirhost.lib_version()),
        "libvirt_version": str(connection.lib_version()),
        "driver": connection.type(),
        "hypervisor_version": str(connection.version()),
    }


def version_row(data: Any) -> Row:
    """Show versions."""
    return {
        "Driver": data["driver"],
        "Hypervisor version": data["hypervisor_version"],
        "libvirt of the host": data["libvirt_version"],
        "libvirt here": data["library_version"],
        "pyvirhost": data["pyvirhost_version"],
    }


def report_row(data: Any) -> Row:
    """Show of a whole report what fits a line."""
    identity, node, cpu_map = data["identity"], data["node"] or {}, data["cpu_map"]
    free, memory = data["memory"]["free_bytes"], node.get("memory_bytes")
    return {
        "Hostname": identity["hostname"] or NOT_SUPPORTED,
        "Driver": identity["driver"] or NOT_SUPPORTED,
        "libvirt": identity["libvirt_version"] or NOT_SUPPORTED,
        "Model": node.get("model", NOT_SUPPORTED),
        "CPUs online": str(cpu_map["online"] if cpu_map else node.get("cpus", NOT_SUPPORTED)),
        "Cells": str(len(data["cells"])) if data["cells"] is not None else NOT_SUPPORTED,
        "Memory": size(memory) if memory is not None else NOT_SUPPORTED,
        "Free": size(free) if free is not None else NOT_SUPPORTED,
    }


# ---- CPUs ---------------------------------------------------------------------------------------

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
    which.add_argument("--cpu", type=number, metavar="N", help="one CPU in place of all together")
    which.add_argument("--per-cpu", action="store_true", help="each online CPU")
    parser.add_argument(
        "--percent", action="store_true", help="shares of the time over an interval, not since "
        "the host booted")
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="SECONDS",
        help="how long that interval is (default: 1)")


def read_cpu_stats(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read CPU times since boot, or shares of the time over the interval."""
    if arguments.percent:
        return read_cpu_rates(connection, arguments)
    if arguments.per_cpu:
        return {"cpus": [{"cpu": cpu, **in_seconds(times)}
                         for cpu, times in connection.per_cpu_stats().items()]}
    if arguments.cpu is not None:
        return {"cpu": arguments.cpu, **in_seconds(connection.cpu_stats(arguments.cpu))}
    return dict(in_seconds(connection.cpu_stats(ALL_CPUS)))


def read_cpu_rates(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read in percent what the CPUs did over an interval; None where that can't be known."""
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
        # The server says best what is wrong with that number.
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


# ---- comparing CPUs -----------------------------------------------------------------------------

CPU_PLACES = {
    "cpu": ".", "domain": "cpu", "capabilities": "host/cpu",
    "domainCapabilities": "cpu/mode[@name='host-model']",
}


def cpus_of_file(path: str) -> list[str]:
    """Return the CPUs in a file, or in standard input where its name is ``-``.

    As with virsh these are ``<cpu>`` elements, and those of domains and of capabilities, any
    number of them one after another.
    """
    try:
        if path == "-":
            if sys.stdin is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None
    try:
        # Several documents, each perhaps with its declaration, are none to a parser.
        root = read_xml(f"<all>{re.sub(r'<[?]xml [^<>]*[?]>', '', text)}</all>")
    except BoundError as error:
        raise argparse.ArgumentTypeError(f"{path} is {error}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} is not XML: {error}") from None
    found = []
    for element in root:
        place = CPU_PLACES.get(element.tag)
        for cpu in element.findall(place) if place else ():
            if cpu.tag == "mode":
                cpu.tag = "cpu"
                cpu.attrib.clear()
            cpu.tail = None
            found.append(ElementTree.tostring(cpu, encoding="unicode"))
    if not found:
        raise argparse.ArgumentTypeError(
            f"{path} has no <cpu>, be it alone, in a domain or in capabilities")
    return found


def read_own_cpu(connection: "Connection") -> str:
    """Return a host's own CPU as its capabilities describe it."""
    cpu = parse(connection.capabilities(), "virConnectGetCapabilities").find("host/cpu")
    if cpu is None or cpu.find("model") is None:
        raise ValueError("the host's capabilities do not tell its CPU model")
    cpu.tail = None
    return ElementTree.tostring(cpu, encoding="unicode")


def cpu_file_argument(parser: Parser, without: str) -> None:
    """Add the file that has the CPUs."""
    parser.add_argument(
        "cpus", nargs="?", type=cpus_of_file, metavar="FILE",
        help=f"XML with CPUs, domains or capabilities, - for standard input; {without}")


def hypervisor_arguments(parser: Parser) -> None:
    """Add which hypervisor's CPU it is about."""
    parser.add_argument("--virttype", metavar="TYPE", help="kind of domain, such as kvm or qemu")
    parser.add_argument("--emulator", metavar="PATH", help="the emulator's program on the host")
    parser.add_argument("--arch", help="the architecture, such as x86_64")
    parser.add_argument("--machine", metavar="TYPE", help="the machine type, such as q35")


def hypervisor(arguments: Arguments) -> dict[str, Any]:
    """Return what the arguments say of the hypervisor."""
    return {name: getattr(arguments, name) for name in ("emulator", "arch", "machine", "virttype")}


def baseline_arguments(parser: Parser) -> None:
    """Add the arguments of cpu-baseline."""
    cpu_file_argument(parser, "without one, all the hosts' own CPUs")
    parser.add_argument("--features", action="store_true",
                        help="list the features that the model already implies, too")
    parser.add_argument("--migratable", action="store_true",
                        help="leave out features that would stop a migration")


def hypervisor_baseline_arguments(parser: Parser) -> None:
    """Add the arguments of hypervisor-cpu-baseline."""
    baseline_arguments(parser)
    hypervisor_arguments(parser)


def baseline_flags(arguments: Arguments) -> int:
    """Return libvirt's flags for the arguments of cpu-baseline."""
    flags = 0
    if arguments.features:
        flags |= BaselineCPUFlags.EXPAND_FEATURES
    if arguments.migratable:
        flags |= BaselineCPUFlags.MIGRATABLE
    return flags


def read_baseline(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Let a host compute the CPU that all the given ones can stand in for."""
    return {"cpu": connection.baseline_cpu(arguments.cpus, baseline_flags(arguments))}


def read_hypervisor_baseline(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Let a host compute the same for what its hypervisor can do."""
    return {"cpu": connection.baseline_hypervisor_cpu(
        arguments.cpus, **hypervisor(arguments), flags=baseline_flags(arguments))}


def ask_baseline(read: Callable[["Connection", Arguments], Any]
                 ) -> Callable[[Fleet, Arguments], list[Answer]]:
    """Return what asks for a baseline of a file's CPUs, or of the hosts' own."""
    def ask(fleet: Fleet, arguments: Arguments) -> list[Answer]:
        if arguments.cpus is not None:
            return fleet.ask(lambda connection: read(connection, arguments))
        answers = fleet.ask(read_own_cpu)
        failed = [answer for answer in answers if answer.error]
        if failed:
            return failed  # a CPU for those that answered may be too much for the others
        joined = argparse.Namespace(**{
            **vars(arguments), "cpus": [answer.result for answer in answers]})
        # libvirt computes it on a host, and any will do.
        return fleet.ask(lambda connection: read(connection, joined), fleet.sessions[:1])
    return ask


def compare_arguments(parser: Parser) -> None:
    """Add the arguments of cpu-compare."""
    cpu_file_argument(parser, "without one, the first host's own CPU")
    parser.add_argument("--error", action="store_true",
                        help="say of an incompatible CPU what it is that the host lacks")
    parser.add_argument("--validate", action="store_true",
                        help="check the XML against libvirt's schema first")


def hypervisor_compare_arguments(parser: Parser) -> None:
    """Add the arguments of hypervisor-cpu-compare."""
    compare_arguments(parser)
    hypervisor_arguments(parser)


def check_compare(arguments: Arguments, hosts: Sequence[Host]) -> str | None:
    """Say what is wrong with the arguments of cpu-compare."""
    if arguments.cpus is None and len(hosts) == 1:
        return "cpu-compare needs a FILE, or several hosts to compare with the first"
    if arguments.cpus is not None and len(arguments.cpus) != 1:
        return f"cpu-compare compares one CPU, and the file has {len(arguments.cpus)}"
    return None


def compare_flags(arguments: Arguments) -> int:
    """Return libvirt's flags for the arguments of cpu-compare."""
    flags = 0
    if arguments.error:
        flags |= CompareCPUFlags.FAIL_INCOMPATIBLE
    if arguments.validate:
        flags |= CompareCPUFlags.VALIDATE_XML
    return flags


def read_comparison(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Compare a host's CPU with the given one."""
    return comparison_values(connection.compare_cpu(arguments.cpus[0], compare_flags(arguments)))


def read_hypervisor_comparison(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Compare the CPU that a host's hypervisor can provide with the given one."""
    return comparison_values(connection.compare_hypervisor_cpu(
        arguments.cpus[0], **hypervisor(arguments), flags=compare_flags(arguments)))


def ask_comparison(read: Callable[["Connection", Arguments], Any]
                   ) -> Callable[[Fleet, Arguments], list[Answer]]:
    """Return what compares the hosts' CPUs with a file's, or with that of the first host."""
    def ask(fleet: Fleet, arguments: Arguments) -> list[Answer]:
        if arguments.cpus is not None:
            return fleet.ask(lambda connection: read(connection, arguments))
        first, = fleet.ask(read_own_cpu, fleet.sessions[:1])
        if first.error:
            return [first]
        joined = argparse.Namespace(**{**vars(arguments), "cpus": [first.result]})
        return fleet.ask(lambda connection: read(connection, joined))
    return ask


# ---- memory -------------------------------------------------------------------------------------

def cell_argument(parser: Any, help: str) -> None:
    """Add the number of a NUMA cell, with both names that virsh has for it."""
    parser.add_argument("--cell", "--cellno", dest="cell", type=number, metavar="N", help=help)


def read_memory_stats(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the memory statistics of the host or of a cell."""
    if arguments.cell is None:
        return dict(in_bytes(connection.memory_stats()))
    return {"cell": arguments.cell, **in_bytes(connection.memory_stats(arguments.cell))}


def memory_stats_row(data: Any) -> Row:
    """Show memory statistics."""
    return {key.removesuffix("_bytes").capitalize(): size(value) if key != "cell" else str(value)
            for key, value in data.items()}


def freecell_arguments(parser: Parser) -> None:
    """Add the arguments of freecell."""
    which = parser.add_mutually_exclusive_group()
    cell_argument(which, "one NUMA cell in place of the whole host")
    which.add_argument("--all", action="store_true", help="each cell and their sum")


def read_freecell(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the free memory of the host, of a cell or of all cells."""
    if arguments.cell is not None:
        free, = connection.cells_free_memory(arguments.cell, 1).values()
        return {"cell": arguments.cell, "free_bytes": free}
    if not arguments.all:
        return {"free_bytes": connection.free_memory()}
    cells = list(connection.cells_free_memory().values())
    return {
        "cells": [{"cell": cell, "free_bytes": free} for cell, free in enumerate(cells)],
        "free_bytes": sum(cells),
    }


def freecell_row(data: Any) -> Row:
    """Show free memory."""
    row = {f"Cell {cell['cell']}": size(cell["free_bytes"]) for cell in data.get("cells", ())}
    if "cell" in data:
        row["Cell"] = str(data["cell"])
    return row | {"Total" if "cells" in data else "Free": size(data["free_bytes"])}


def freepages_arguments(parser: Parser) -> None:
    """Add the arguments of freepages."""
    which = parser.add_mutually_exclusive_group()
    cell_argument(which, "one NUMA cell in place of all")
    which.add_argument("--all", action="store_true", help="all cells, as without it")
    parser.add_argument(
        "--pagesize", type=page_size, metavar="SIZE",
        help="pages of one size in place of all: in KiB, or as in 4K, 2M, 1G")


def read_freepages(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read how many pages of each size are free in the cells."""
    cells = free_pages(connection, [arguments.pagesize] if arguments.pagesize else None)
    if arguments.cell is not None:
        if arguments.cell not in cells:
            raise ValueError(f"there is no NUMA cell {arguments.cell}")
        cells = {arguments.cell: cells[arguments.cell]}
    return {"cells": [{"cell": cell, "free_pages": pages} for cell, pages in cells.items()]}


def freepages_rows(data: Any) -> Sequence[Row]:
    """Show free pages."""
    from humanize import intcomma

    return [
        {"Cell": str(cell["cell"]), **{
            f"Free {size(pages['page_size_bytes'], '%.0f')} pages": intcomma(pages["free"])
            for pages in cell["free_pages"]}}
        for cell in data["cells"]
    ]


def allocpages_arguments(parser: Parser) -> None:
    """Add the arguments of allocpages."""
    parser.add_argument("pagesize", type=page_size, metavar="PAGESIZE",
                        help="in KiB, or as in 2M, 1G")
    parser.add_argument("pagecount", type=number, metavar="PAGECOUNT", help="how many pages")
    which = parser.add_mutually_exclusive_group()
    cell_argument(which, "in one NUMA cell; by default where the kernel finds room")
    which.add_argument("--all", action="store_true", help="so many in each cell")
    parser.add_argument("--add", action="store_true",
                        help="so many more, not so many in all")
    yes_argument(parser)


def allocate(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Change how many huge pages there are, and read what came of it."""
    pagesize, count = arguments.pagesize, arguments.pagecount
    before = free_pages(connection, [pagesize])
    flags = (AllocPagesFlags.ADD if arguments.add else
             AllocPagesFlags.SET)
    if arguments.all:
        connection.alloc_pages({pagesize: count}, 0, len(before), flags)
    elif arguments.cell is not None:
        connection.alloc_pages({pagesize: count}, arguments.cell, 1, flags)
    else:
        connection.alloc_pages({pagesize: count}, flags=flags)
    after = free_pages(connection, [pagesize])
    return {
        "page_size_bytes": pagesize * KIB,
        "cells": [
            {"cell": cell, "free_before": was["free"], "free_after": now["free"],
             "obtained": now["free"] - was["free"]}
            for (cell, [was]), [now] in zip(before.items(), after.values(), strict=True)
        ],
    }


def allocated_rows(data: Any) -> Sequence[Row]:
    """Show what came of an allocation."""
    return [
        {"Cell": str(cell["cell"]), "Page size": size(data["page_size_bytes"], "%.0f"),
         "Free before": str(cell["free_before"]), "Free after": str(cell["free_after"]),
         "Obtained": f"{cell['obtained']:+d}"}
        for cell in data["cells"]
    ]


def allocation_question(arguments: Arguments) -> str:
    """Ask for consent to an allocation."""
    where = ("each cell" if arguments.all else "the host" if arguments.cell is None else
             f"cell {arguments.cell}")
    pages = f"{counted(arguments.pagecount, 'page')} of {size(arguments.pagesize * KIB, '%.0f')}"
    return f"Give {where} {pages} more" if arguments.add else f"Let {where} have {pages}"


SETTINGS = ("shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes")


def tune_arguments(parser: Parser) -> None:
    """Add the arguments of node-memory-tune."""
    parser.add_argument("--shm-pages-to-scan", type=number, metavar="N",
                        help="how many pages KSM scans before it sleeps")
    parser.add_argument("--shm-sleep-millisecs", type=number, metavar="N",
                        help="how many milliseconds it sleeps")
    parser.add_argument("--shm-merge-across-nodes", type=number, metavar="0|1",
                        help="whether it merges pages of different NUMA cells")
    parser.add_argument("--dry-run", action="store_true",
                        help="show what would be set, and set nothing")


def wished(arguments: Arguments) -> dict[str, int]:
    """Return the memory parameters that are to be set."""
    return {name: getattr(arguments, name) for name in SETTINGS
            if getattr(arguments, name) is not None}


def tunes(arguments: Arguments) -> bool:
    """Return whether node-memory-tune is to change something."""
    return bool(wished(arguments)) and not arguments.dry_run


def check_tune(arguments: Arguments, hosts: Sequence[Host]) -> str | None:
    """Say what is wrong with the arguments of node-memory-tune."""
    if arguments.dry_run and not wished(arguments):
        return "--dry-run needs a parameter to set"
    if arguments.shm_merge_across_nodes not in (None, 0, 1):
        return "--shm-merge-across-nodes must be 0 or 1"
    return None


def tune(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the memory parameters, and set some where that is wished."""
    before = connection.memory_parameters()
    wishes = wished(arguments)
    if not wishes:
        return with_errors(*ksm_values(before))
    if arguments.dry_run:
        for name in wishes:
            if name not in before:
                raise ValueError(f"the host has no parameter {name}")
        after = {**before, **wishes}
    else:
        connection.set_memory_parameters(wishes)
        after = dict(connection.memory_parameters())
    (was, problems), (now, more), (wanted, _) = map(ksm_values, (before, after, wishes))
    # A server may leave out what it told a moment before.
    changes = {key: {"before": was[key], "after": now.get(key)} for key in was if key in wanted}
    return with_errors(
        {"dry_run": arguments.dry_run, "changes": changes},
        {key: error for key, error in (problems | more).items() if key in changes})


def tune_rows(data: Any) -> Row | Sequence[Row]:
    """Show memory parameters, or what becomes of them."""
    changes = data.get("changes")
    if not isinstance(changes, dict):  # a server may have a parameter of that name
        return dict(ksm_pairs(without_errors(data)))
    before, after = (dict(ksm_pairs({key: change[side] for key, change in changes.items()}))
                     for side in ("before", "after"))
    then = "Would be" if data["dry_run"] else "Now"
    return [{"Parameter": name, "Was": before[name], then: after[name]} for name in before]


def with_errors(values: dict[str, Any], errors: Errors) -> dict[str, Any]:
    """Return values with why some of them are None, where any are."""
    return {**values, "errors": errors} if errors else values


def without_errors(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values alone."""
    return {name: value for name, value in data.items() if name != "errors"}


# ---- changing and asking the rest ---------------------------------------------------------------

def yes_argument(parser: Parser) -> None:
    """Add consent beforehand."""
    parser.add_argument("--yes", action="store_true", help="do not ask first")


def suspend_arguments(parser: Parser) -> None:
    """Add the arguments of nodesuspend."""
    parser.add_argument("target", choices=tuple(SUSPEND), metavar="TARGET",
                        help="where its memory stays: mem, disk or hybrid, which is both")
    parser.add_argument("duration", type=number, metavar="SECONDS",
                        help="for how long, 60 or more")
    yes_argument(parser)


SUSPEND = {
    "mem": NodeSuspendTarget.MEM,
    "disk": NodeSuspendTarget.DISK,
    "hybrid": NodeSuspendTarget.HYBRID,
}


def suspend(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Suspend a host."""
    connection.suspend_for_duration(SUSPEND[arguments.target], arguments.duration)
    return {"target": arguments.target, "duration_seconds": arguments.duration}


def read_sev(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read what the host says of AMD's Secure Encrypted Virtualization."""
    return with_errors(*parameter_values(connection.sev_info()))


def sev_row(data: Any) -> Row:
    """Show what the host says of it."""
    return {name: UNKNOWN if value is None else str(value)
            for name, value in without_errors(data).items()}


# ---- many hosts, until stopped ------------------------------------------------------------------

def run_poll(hosts: Sequence[Host], arguments: Arguments) -> int:
    """Run poll, whose module stands above this one and is loaded for it only."""
    from pyvirhost.stream import poll

    return poll(hosts, arguments)


def interval_argument(parser: Parser) -> None:
    """Add how often to read each host."""
    parser.add_argument(
        "--interval", type=seconds, default=5.0, metavar="SECONDS",
        help="how often each host is read (default: 5); a host that takes longer is late, unless "
        "--timeout says otherwise")


def poll_arguments(parser: Parser) -> None:
    """Add the arguments of poll."""
    interval_argument(parser)
    parser.add_argument(
        "--fields", type=lambda text: text.split(","), metavar="FIELD,...",
        help="what to read, by the names of HostSnapshot's fields; by default what a daemon "
        "answers even when its ordinary workers are stuck")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--count", type=positive, metavar="N",
                     help="end after N samples of each host")
    end.add_argument("--once", action="store_const", const=1, dest="count",
                     help="end after one of each host, all of them asked at once")


def run_top(hosts: Sequence[Host], arguments: Arguments) -> int:
    """Run top, or say what it lacks."""
    from pyvirhost.cli import fail

    try:
        from pyvirhost.top import top
    except ImportError as error:
        return fail(f"{error}: pip install 'pyvirhost[top]'")
    return top(hosts, arguments)


def check_live(arguments: Arguments, hosts: Sequence[Host]) -> str | None:
    """Say that what goes on by itself is not to be repeated."""
    if arguments.watch is not None:
        return f"{arguments.command} goes on by itself: say --interval in place of --watch"
    return None


def check_top(arguments: Arguments, hosts: Sequence[Host]) -> str | None:
    """Say that a screen is neither to be repeated nor JSON."""
    if arguments.json:
        return "top is for people: for JSON say poll in place of it"
    return check_live(arguments, hosts)


# ---- arguments ----------------------------------------------------------------------------------

def positive(text: str) -> int:
    """Return a number that is more than 0."""
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def number(text: str) -> int:
    """Return a whole number that is not negative."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    value = int(text) if len(text) < 20 else 2**64
    if value > 2**32 - 1:
        raise argparse.ArgumentTypeError(f"{text[:20]} is too big")
    return value


def seconds(text: str) -> float:
    """Return a number of seconds that is more than 0."""
    try:
        return seconds_value(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None


def page_size(text: str) -> int:
    """Return the size of a page in KiB."""
    match = re.fullmatch(r"([0-9]{1,9})([KMG]?)(iB|B)?", text, re.IGNORECASE)
    kib = int(match[1]) * {"": 1, "K": 1, "M": KIB, "G": KIB * KIB}[match[2].upper()] if (
        match) else 0
    if not 0 < kib < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a page size in KiB, or as in 2M or 1G, not {text!r}")
    return kib


# ---- the table ----------------------------------------------------------------------------------

HOST, CPUS, MEMORY, LIVE, CHANGE = (
    "About the host", "CPUs", "Memory", "Many hosts, until stopped", "Changing the host")

_ALL = [
    Command(
        name="report", group=HOST, help="all of it at a glance; what runs without a command",
        read=lambda connection, arguments: collect(connection),
        rows=report_row, sections=lambda data: list(sections(data)),
    ),
    Command(
        name="hostname", group=HOST, help="the host's name",
        read=lambda connection, arguments: {"hostname": connection.hostname()},
        rows=lambda data: {"Hostname": data["hostname"]},
    ),
    Command(
        name="uri", group=HOST, help="the URI that libvirt made of the one given",
        read=lambda connection, arguments: {"uri": connection.uri()},
        rows=lambda data: {"URI": data["uri"]},
    ),
    Command(
        name="version", group=HOST, help="versions of the hypervisor and of libvirt, there and "
        "here", read=read_version, rows=version_row,
    ),
    Command(
        name="capabilities", group=HOST, help="what host and hypervisor can do, as XML",
        read=lambda connection, arguments: {"capabilities": connection.capabilities()},
        text=lambda data: data["capabilities"],
    ),
    Command(
        name="sysinfo", group=HOST, help="what the firmware says of the machine, as XML",
        read=lambda connection, arguments: {"sysinfo": connection.sysinfo()},
        text=lambda data: data["sysinfo"],
    ),
    Command(
        name="nodesevinfo", group=HOST, help="AMD's Secure Encrypted Virtualization",
        read=read_sev, writes=lambda arguments: True,
        rows=sev_row,
    ),
    Command(
        name="nodeinfo", group=CPUS, help="CPUs, their topology, and the memory",
        read=lambda connection, arguments: node_values(connection.node_info()),
        rows=nodeinfo_row,
    ),
    Command(
        name="nodecpumap", group=CPUS, help="which CPUs are online",
        read=lambda connection, arguments: cpu_map_values(connection.cpu_map()),
        rows=cpu_map_row,
    ),
    Command(
        name="nodecpustats", group=CPUS, help="what the CPUs did since boot, or do now",
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
    Command(
        name="cpu-baseline", group=CPUS, help="the CPU that all hosts, or all CPUs of a file, can "
        "be", read=read_baseline, text=lambda data: data["cpu"], arguments=baseline_arguments,
        ask=ask_baseline(read_baseline), joins=lambda arguments: arguments.cpus is None,
        examples=("--hosts fleet.toml cpu-baseline --migratable", "cpu-baseline cpus.xml",
                  "-c qemu:///system capabilities | pyvirhost cpu-baseline -"),
    ),
    Command(
        name="cpu-compare", group=CPUS, help="whether hosts can be a given CPU",
        read=read_comparison, arguments=compare_arguments, check=check_compare,
        rows=lambda data: {"CPU of the host": data["host_cpu"]},
        ask=ask_comparison(read_comparison),
        failed=lambda data: data["host_cpu"] not in ("identical", "superset"),
        examples=("cpu-compare guest.xml --error", "--hosts fleet.toml cpu-compare"),
    ),
    Command(
        name="hypervisor-cpu-baseline", group=CPUS,
        help="the CPU that the hypervisors of all hosts can provide",
        read=read_hypervisor_baseline, text=lambda data: data["cpu"],
        arguments=hypervisor_baseline_arguments,
        ask=ask_baseline(read_hypervisor_baseline), joins=lambda arguments: arguments.cpus is None,
        writes=lambda arguments: True,
    ),
    Command(
        name="hypervisor-cpu-compare", group=CPUS,
        help="whether the hypervisors of hosts can provide a given CPU",
        read=read_hypervisor_comparison, check=check_compare,
        arguments=hypervisor_compare_arguments,
        rows=lambda data: {"CPU of the host": data["host_cpu"]},
        ask=ask_comparison(read_hypervisor_comparison), writes=lambda arguments: True,
        failed=lambda data: data["host_cpu"] not in ("identical", "superset"),
    ),
    Command(
        name="nodememstats", group=MEMORY, help="total, free, buffers and cached memory",
        read=read_memory_stats, rows=memory_stats_row,
        arguments=lambda parser: cell_argument(parser, "one NUMA cell in place of the host"),
    ),
    Command(
        name="freecell", group=MEMORY, help="free memory, also of each NUMA cell",
        read=read_freecell, rows=freecell_row, arguments=freecell_arguments,
    ),
    Command(
        name="freepages", group=MEMORY, help="free pages of each size in each NUMA cell",
        read=read_freepages, rows=freepages_rows, arguments=freepages_arguments,
        examples=("freepages --pagesize 2M",),
    ),
    Command(
        name="node-memory-tune", group=MEMORY, help="kernel samepage merging: show or set",
        read=tune, rows=tune_rows, arguments=tune_arguments, check=check_tune, writes=tunes,
        changes=tunes,
        examples=("node-memory-tune", "node-memory-tune --shm-sleep-millisecs 50 --dry-run"),
    ),
    Command(
        name="poll", group=LIVE, help="a line of JSON for each sample of each host, for programs",
        run=run_poll, arguments=poll_arguments, check=check_live,
        examples=("--hosts fleet.toml poll", "poll --interval 1 --fields cpu_stats,free_memory",
                  "--hosts fleet.toml poll --once"),
    ),
    Command(
        name="top", group=LIVE, help="a live table of all hosts that fills the terminal",
        run=run_top, arguments=interval_argument, check=check_top,
        examples=("--hosts fleet.toml top", "-c qemu:///system top --interval 1"),
    ),
    Command(
        name="allocpages", group=CHANGE, help="reserve huge pages, or give them back",
        read=allocate, rows=allocated_rows, arguments=allocpages_arguments,
        writes=lambda arguments: True, changes=lambda arguments: True,
        question=allocation_question,
        examples=("allocpages 2M 512 --cell 0", "allocpages 2M 0 --all --yes"),
    ),
    Command(
        name="nodesuspend", group=CHANGE, help="suspend the host for a while",
        read=suspend, arguments=suspend_arguments, writes=lambda arguments: True,
        changes=lambda arguments: True,
        check=lambda arguments, hosts: (
            "a host can't be suspended for less than 60 seconds" if arguments.duration < 60 else
            None),
        question=lambda arguments: (
            f"Suspend to {arguments.target} for {duration(arguments.duration)}"),
        rows=lambda data: {
            "Was sent to": data["target"], "For": duration(data["duration_seconds"])},
    ),
]

COMMANDS = {command.name: command for command in _ALL}

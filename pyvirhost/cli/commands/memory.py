"""Commands about memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyvirhost.cli.arguments import cell_argument, number, page_size
from pyvirhost.cli.commands.command import MEMORY, Arguments, Command, Parser, Row
from pyvirhost.cli.report import free_pages, ksm_pairs
from pyvirhost.cli.text import size
from pyvirhost.values import in_bytes, ksm_values, with_errors, without_errors

if TYPE_CHECKING:
    from pyvirhost import Connection
    from pyvirhost.poll.host import Host


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
    cell_argument(which, "one NUMA cell instead of the whole host")
    which.add_argument("--all", action="store_true", help="each cell, and the total")


def read_freecell(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the free memory of the host, of a cell or of all cells."""
    if arguments.cell is not None:
        free, = connection.cells_free_memory(arguments.cell, 1).values()
        return {"cell": arguments.cell, "free_bytes": free}
    if not arguments.all:
        return {"free_bytes": connection.free_memory()}
    cells = connection.cells_free_memory()
    return {
        "cells": [{"cell": cell, "free_bytes": free} for cell, free in cells.items()],
        "free_bytes": sum(cells.values()),
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
    cell_argument(which, "one NUMA cell instead of all")
    which.add_argument("--all", action="store_true", help="all cells, the default")
    parser.add_argument(
        "--pagesize", type=page_size, metavar="SIZE",
        help="pages of one size instead of all: in KiB, or with a unit as in 4K, 2M, 1G")


def read_freepages(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read how many pages of each size are free in each cell."""
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


SETTINGS = ("shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes")


def tune_arguments(parser: Parser) -> None:
    """Add the arguments of node-memory-tune."""
    parser.add_argument("--shm-pages-to-scan", type=number, metavar="N",
                        help="how many pages KSM scans before it sleeps")
    parser.add_argument("--shm-sleep-millisecs", type=number, metavar="N",
                        help="how many milliseconds KSM sleeps")
    parser.add_argument("--shm-merge-across-nodes", type=number, metavar="0|1",
                        help="whether KSM merges pages of different NUMA cells")
    parser.add_argument("--dry-run", action="store_true",
                        help="show what would change, without changing it")


def requested(arguments: Arguments) -> dict[str, int]:
    """Return the memory parameters to set."""
    return {name: getattr(arguments, name) for name in SETTINGS
            if getattr(arguments, name) is not None}


def changes_settings(arguments: Arguments) -> bool:
    """Return whether node-memory-tune changes anything."""
    return bool(requested(arguments)) and not arguments.dry_run


def check_tune(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say what is wrong with the arguments of node-memory-tune."""
    if arguments.dry_run and not requested(arguments):
        return "--dry-run needs a parameter to set"
    if arguments.shm_merge_across_nodes not in (None, 0, 1):
        return "--shm-merge-across-nodes must be 0 or 1"
    return None


def tune(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the memory parameters, and set those requested."""
    before = connection.memory_parameters()
    settings = requested(arguments)
    if not settings:
        return with_errors(*ksm_values(before))
    if arguments.dry_run:
        for name in settings:
            if name not in before:
                raise ValueError(f"the host has no parameter {name}")
        after = {**before, **settings}
    else:
        connection.set_memory_parameters(settings)
        after = dict(connection.memory_parameters())
    (was, problems), (now, more), (wanted, _) = map(ksm_values, (before, after, settings))
    # A server may leave out what it reported a moment before.
    changes = {key: {"before": was[key], "after": now.get(key)} for key in was if key in wanted}
    return with_errors(
        {"dry_run": arguments.dry_run, "changes": changes},
        {key: error for key, error in (problems | more).items() if key in changes})


def tune_rows(data: Any) -> Row | Sequence[Row]:
    """Show memory parameters, or how they change."""
    changes = data.get("changes")
    if not isinstance(changes, dict):  # a server may have a parameter of that name
        return dict(ksm_pairs(without_errors(data)))
    before, after = (dict(ksm_pairs({key: change[side] for key, change in changes.items()}))
                     for side in ("before", "after"))
    then = "Would be" if data["dry_run"] else "Now"
    return [{"Parameter": name, "Was": before[name], then: after[name]} for name in before]


COMMANDS = [
    Command(
        name="nodememstats", group=MEMORY, help="total, free, buffers and cached memory",
        read=read_memory_stats, rows=memory_stats_row,
        arguments=lambda parser: cell_argument(parser, "one NUMA cell instead of the host"),
    ),
    Command(
        name="freecell", group=MEMORY, help="free memory of the host or its NUMA cells",
        read=read_freecell, rows=freecell_row, arguments=freecell_arguments,
    ),
    Command(
        name="freepages", group=MEMORY, help="free pages of each size in each NUMA cell",
        read=read_freepages, rows=freepages_rows, arguments=freepages_arguments,
        examples=("freepages --pagesize 2M",),
    ),
    Command(
        name="node-memory-tune", group=MEMORY, help="kernel samepage merging: show or set",
        read=tune, rows=tune_rows, arguments=tune_arguments, check=check_tune,
        writes=changes_settings, changes=changes_settings,
        examples=("node-memory-tune", "node-memory-tune --shm-sleep-millisecs 50 --dry-run"),
    ),
]

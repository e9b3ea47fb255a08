"""Commands that change a host and ask for consent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyvirhost.cli.arguments import cell_argument, number, page_size
from pyvirhost.cli.commands.command import CHANGE, Arguments, Command, Parser, Row
from pyvirhost.cli.report import free_pages
from pyvirhost.cli.text import counted, duration, size
from pyvirhost.constants import AllocPagesFlags, NodeSuspendTarget
from pyvirhost.values import KIB

if TYPE_CHECKING:
    from pyvirhost import Connection


def allocpages_arguments(parser: Parser) -> None:
    """Add the arguments of allocpages."""
    parser.add_argument("pagesize", type=page_size, metavar="PAGESIZE",
                        help="in KiB, or with a unit as in 2M, 1G")
    parser.add_argument("pagecount", type=number, metavar="PAGECOUNT", help="how many pages")
    which = parser.add_mutually_exclusive_group()
    cell_argument(which, "in one NUMA cell; by default wherever the kernel finds room")
    which.add_argument("--all", action="store_true", help="this many in each cell")
    parser.add_argument("--add", action="store_true",
                        help="add this many, instead of setting the total")
    yes_argument(parser)


def allocate(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Change the number of huge pages, and read the result."""
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
    """Show the result of an allocation."""
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
    return f"Give {where} {pages} more" if arguments.add else f"Set {where} to {pages}"


def yes_argument(parser: Parser) -> None:
    """Add the option to consent beforehand."""
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


COMMANDS = [
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
            "Suspending to": data["target"], "For": duration(data["duration_seconds"])},
    ),
]

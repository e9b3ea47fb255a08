"""Rows of text: what is shown about hosts, independent of a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pyvirhost.cli.report import ksm_pairs
from pyvirhost.cli.text import duration, printable
from pyvirhost.cli.top.model import State, Watched, figures_of
from pyvirhost.values import KIB, ksm_values

FEW = 8
"""The most NUMA cells, or page sizes, in a cell of the table."""
BARS = "▁▂▃▄▅▆▇█"
UNKNOWN = "-"


def brief(amount: int) -> str:
    """Return a number of bytes in short form, as in ``"3.0G"``."""
    from humanize import naturalsize

    return naturalsize(amount, gnu=True, format="%.1f").replace(".0K", "K")


def age_text(seconds: float) -> str:
    """Return an age, which is never shown as more than a second too young."""
    return f"{seconds:.0f} s" if seconds < 99.5 else duration(seconds)


def percent(share: float | None) -> str:
    """Return a share of the time."""
    return UNKNOWN if share is None else f"{share * 100:.1f}%"


def graph(history: Iterable[float | None], width: int) -> str:
    """Return the last shares of a history as bars, with gaps for unknown ones."""
    bars = "".join(
        " " if share is None else BARS[min(int(share * len(BARS)), len(BARS) - 1)]
        for share in history)
    return bars[-width:].rjust(width)


def level(busy: float | None) -> str:
    """Return the colour for how busy a CPU is."""
    return "" if busy is None else "red" if busy >= 0.9 else "yellow" if busy >= 0.7 else "green"


def page_size_text(size: int) -> str:
    """Return the size of a page, as in ``"2M"``."""
    return brief(size).replace(".0", "")


# ---- rows ---------------------------------------------------------------------------------------

class Column(NamedTuple):
    """A column of a table.

    Parameters
    ----------
    name : str
        The key of its cell in each row.
    title : str
    width : int
    left : bool
        Whether it is left-aligned, for words.
    rank : int
        The higher it is, the sooner the column is dropped if there is no room for all.
    key : str
        The key to press to sort by it.
    order : callable, optional
        The sort key of a host; hosts for which it returns None come last.
    descending : bool
        Whether the highest come first.
    """

    name: str
    title: str
    width: int
    left: bool = False
    rank: int = 0
    key: str = ""
    order: Callable[[Watched], Any] | None = None
    descending: bool = True


class Row(NamedTuple):
    """The text of a row by column, and a message instead of missing cells."""

    cells: Mapping[str, str]
    colours: Mapping[str, str] = {}
    state: State = State.FRESH
    message: str = ""


def huge_bytes(host: Watched) -> int | None:
    """Return how much memory is free in huge pages."""
    return sum(size * free for size, free in host.figures.huge) if host.figures.huge else None


def trouble(host: Watched) -> tuple[bool, int]:
    """Return how much is wrong with a host."""
    return host.sample is not None and host.sample.error is not None, len(host.figures.problems)


COLUMNS = (
    Column("host", "Host", 20, left=True, key="n", order=lambda host: host.name.casefold(),
           descending=False),
    Column("state", "State", 6, left=True, key="e", order=trouble),
    Column("age", "Age", 8, key="a", order=lambda host: -host.good_at),
    Column("busy", "CPU", 6, key="c", order=lambda host: host.figures.busy),
    Column("graph", "History", 16, rank=3),
    Column("user", "User", 6, rank=4),
    Column("kernel", "Kernel", 6, rank=5),
    Column("iowait", "IOwait", 6, rank=6),
    Column("idle", "Idle", 6, rank=9),
    Column("memory", "Memory", 13, rank=1, key="m", order=lambda host: host.figures.used),
    Column("cells", "Free by cell", 16, rank=2, left=True, key="u",
           order=lambda host: min(host.figures.cells, default=None), descending=False),
    Column("huge", "Free huge pages", 18, rank=7, left=True, key="h", order=huge_bytes),
    Column("ksm", "KSM pages", 10, rank=8, key="k", order=lambda host: host.figures.ksm),
)
BY_NAME = {column.name: column for column in COLUMNS}
GAP = 1


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit. The first gets the spare room, up to twice its width."""
    numbers = range(len(columns))
    rest = width - sum(column.width + GAP for column in columns) + GAP
    left_out: set[int] = set()
    for number in sorted(numbers, key=lambda number: (columns[number].rank, number), reverse=True):
        if rest >= 0 or len(left_out) + 1 == len(columns):
            break
        left_out.add(number)
        rest += columns[number].width + GAP
    fit = [columns[number] for number in numbers if number not in left_out]
    first = fit[0]
    fit[0] = first._replace(width=min(first.width + max(rest, 0), 2 * first.width))
    return fit


def host_row(host: Watched, now: float, limit: float) -> Row:
    """Return the row of a host: its figures, or why there are no current ones."""
    state = host.state(now, limit)
    cells = {"host": printable(host.name), "state": state.value,
             "age": age_text(host.age(now))}
    if state is State.WAITING:
        return Row(cells, {}, state, "no answer yet")
    if state is State.FAILED:
        return Row(cells, {}, state, printable(host.problem()))
    figures = host.figures
    memory = UNKNOWN
    if figures.total is not None:
        used = UNKNOWN if figures.used is None else brief(figures.used)
        memory = f"{used}/{brief(figures.total)}"
    cells |= {
        "busy": percent(figures.busy), "graph": graph(host.history, 16),
        "user": percent(figures.user), "kernel": percent(figures.kernel),
        "iowait": percent(figures.iowait), "idle": percent(figures.idle),
        "memory": memory,
        # There is room for only a few.
        "cells": " ".join(map(brief, figures.cells[:FEW])) or UNKNOWN,
        "huge": " ".join(f"{free}x{page_size_text(size)}" for size, free in figures.huge[:FEW])
                or UNKNOWN,
        "ksm": UNKNOWN if figures.ksm is None else f"{figures.ksm:,}",
    }
    colour = level(figures.busy)
    return Row(cells, {"busy": colour, "graph": colour,
                       "state": "yellow" if state is State.PARTIAL else ""}, state)


def ordered(hosts: Iterable[Watched], column: Column, *, reverse: bool = False, wanted: str = ""
            ) -> list[Watched]:
    """Return the hosts whose name contains `wanted`, sorted by a column, unknown ones last.

    Parameters
    ----------
    hosts : iterable of Watched
    column : Column
        A column with an `order`.
    reverse : bool
        Whether to reverse the column's own order.
    wanted : str
        Part of a name, in any case.
    """
    assert column.order is not None
    wanted = wanted.casefold()
    keyed = [(column.order(host), host) for host in hosts if wanted in host.name.casefold()]
    known = [pair for pair in keyed if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=column.descending != reverse)
    return [host for _, host in known] + [host for key, host in keyed if key is None]


# ---- one host in detail -------------------------------------------------------------------------

CPU_COLUMNS = (
    Column("cpu", "CPU", 5), Column("busy", "Busy", 6), Column("graph", "History", 40, rank=9),
    *(Column(mode, mode.capitalize(), 6) for mode in ("user", "kernel", "iowait", "idle")),
)


def cpu_numbers(host: Watched) -> list[int]:
    """Return the online CPUs of a host."""
    snapshot = host.good and host.good.snapshot
    return list(snapshot.per_cpu_stats or ()) if snapshot else []


def cpu_row(host: Watched, cpu: int) -> Row:
    """Return the row of a CPU."""
    rates = (host.good and host.good.rates and host.good.rates.per_cpu) or {}
    shares = rates.get(cpu)
    colour = level(shares.busy if shares else None)
    return Row(
        {"cpu": str(cpu), "graph": graph(host.cpus.get(cpu, ()), 40),
         **{mode: percent(getattr(shares, mode, None))
            for mode in ("busy", "user", "kernel", "iowait", "idle")}},
        {"busy": colour, "graph": colour})


def cell_columns(host: Watched) -> list[Column]:
    """Return the columns for a host's NUMA cells, with the host's own page sizes."""
    snapshot = host.good and host.good.snapshot
    pages = snapshot and snapshot.free_pages
    return [Column("cell", "Cell", 5), Column("free", "Free", 8), Column("total", "Total", 8), *(
        Column(f"pages{size}", f"Free {page_size_text(size * KIB)} pages", 16, rank=rank)
        for rank, size in enumerate(pages.page_sizes if pages else ()))]


def cell_numbers(host: Watched) -> list[int]:
    """Return the NUMA cells of a host."""
    snapshot = host.good and host.good.snapshot
    if not snapshot:
        return []
    pages = snapshot.free_pages
    return sorted({*(snapshot.cells_free_memory or ()),
                   *(snapshot.per_cell_memory_stats or ()), *(pages.cells if pages else ())})


def cell_row(host: Watched, cell: int) -> Row:
    """Return the row of a NUMA cell."""
    assert host.good is not None
    assert host.good.snapshot is not None
    snapshot, cells = host.good.snapshot, {"cell": str(cell)}
    free = snapshot.cells_free_memory
    if free is not None and cell in free:
        cells["free"] = brief(free[cell])
    table = snapshot.per_cell_memory_stats
    stats = None if table is None else table.get(cell)
    if stats is not None and stats.total is not None:
        cells["total"] = brief(stats.total * KIB)
    pages = snapshot.free_pages
    if pages is not None and cell in pages.cells:
        cells |= {f"pages{size}": f"{pages[cell, size]:,}" for size in pages.page_sizes}
    return Row(cells)


def host_lines(host: Watched, now: float, limit: float) -> list[tuple[str, str]]:
    """Return lines about a host as a whole, each with its colour."""
    state = host.state(now, limit)
    trusted = state in (State.FRESH, State.PARTIAL)
    age = age_text(host.age(now))
    lines = [(f"{printable(host.name)}  {state.value}, "
              + (f"read {age} ago" if trusted else f"no answer for {age}"),
              "red" if state is State.FAILED else "bold")]
    if host.problem():
        lines.append((printable(host.problem()), "red"))
    if host.good is None:
        return lines
    figures, snapshot = figures_of(host.good), host.good.snapshot
    assert snapshot is not None
    # Figures from before the trouble are dimmed.
    colour = "" if trusted else "dim"
    info = snapshot.node_info
    if info is not None:
        lines.append((f"{printable(info.model)}, {info.cpus} CPUs at {info.mhz} MHz, "
                      f"{info.nodes} cells, {brief(info.memory_bytes)}", colour))
    lines.append((
        f"CPU {percent(figures.busy)} busy: {percent(figures.user)} user, "
        f"{percent(figures.kernel)} kernel, {percent(figures.iowait)} iowait, "
        f"{percent(figures.idle)} idle", colour))
    if snapshot.memory_stats:
        lines.append((printable("Memory " + ", ".join(
            f"{brief(amount * KIB)} {field}"
            for field, amount in snapshot.memory_stats.items())), colour))
    if snapshot.memory_parameters:
        lines.append((printable("KSM " + ", ".join(
            f"{label.lower()} {value}"
            for label, value in ksm_pairs(ksm_values(snapshot.memory_parameters)[0]))), colour))
    return lines

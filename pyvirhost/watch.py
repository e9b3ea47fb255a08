"""Hosts that are read all the time, and what is shown of them: rows of text, without a terminal.

This is what ``top`` knows. How it looks on a terminal is another module's matter.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

import pyvirhost
from pyvirhost.poller import Poller
from pyvirhost.report import ksm_pairs
from pyvirhost.sample import Sample
from pyvirhost.stream import end
from pyvirhost.text import duration, printable
from pyvirhost.values import KIB, free_huge_pages, ksm_values, memory_in_use

FIELDS = ("node_info", "cpu_stats", "memory_stats", "free_memory", "cells_free_memory",
          "free_pages", "memory_parameters")
"""What is read of every host. Each CPU costs a round trip, so CPUs are read of one host only."""
HISTORY = 120
"""How many samples a graph goes back, as far as there is room for them."""
FEW = 8
"""How many cells, and sizes of pages, a cell of a table has."""
BARS = "▁▂▃▄▅▆▇█"
UNKNOWN = "-"


class State(StrEnum):
    """How far a host's figures can be trusted."""

    WAITING = "wait"
    """There are none yet."""
    FRESH = "ok"
    PARTIAL = "part"
    """They are fresh, but some of them could not be read."""
    STALE = "stale"
    """They are older than they should be, though nothing failed."""
    FAILED = "error"
    """The last attempt to read the host failed: they are from before."""


class Figures(NamedTuple):
    """What a sample says, each None where its host does not tell."""

    busy: float | None = None
    user: float | None = None
    kernel: float | None = None
    iowait: float | None = None
    idle: float | None = None
    used: int | None = None
    """Memory in bytes that is neither free, in huge pages or otherwise, nor known to be a cache."""
    total: int | None = None
    cells: tuple[int, ...] = ()
    """The free memory of each NUMA cell in bytes."""
    huge: tuple[tuple[int, int], ...] = ()
    """The size in bytes of each kind of huge pages, the biggest first, and how many are free."""
    ksm: int | None = None
    """How many pages KSM saves."""
    problems: tuple[str, ...] = ()
    """What could not be read, other than what the host does not have."""


def figures_of(sample: Sample) -> Figures:
    """Return what a sample says."""
    snapshot = sample.snapshot
    if snapshot is None:
        return Figures()
    cpu = sample.rates.cpu if sample.rates else None
    used, total = memory_in_use(snapshot)
    ksm, not_told = ksm_values(snapshot.memory_parameters or {})
    figures = Figures(
        used=used, total=total, cells=tuple((snapshot.cells_free_memory or {}).values()),
        huge=tuple(free_huge_pages(snapshot).items()), ksm=ksm.get("pages_sharing"),
        problems=(*(f"{name}: {error}" for name, error in snapshot.errors.items()
                    if not isinstance(error, pyvirhost.NotSupportedError)),
                  *(f"memory_parameters.{key}: {error['message']}"
                    for key, error in not_told.items())))
    return figures if cpu is None else figures._replace(
        busy=cpu.busy, user=cpu.user, kernel=cpu.kernel, iowait=cpu.iowait, idle=cpu.idle)


class Watched:
    """A host, the last that it said, and for how long it has said nothing since.

    Parameters
    ----------
    name : str
    now : float
        When it is watched from, by the monotonic clock, as all times here.
    """

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.since = now
        self.sample: Sample | None = None
        """The last one, be it an error."""
        self.good: Sample | None = None
        """The last one that has figures, and when it was begun."""
        self.good_at = now
        self.figures = Figures()
        """Those of the last sample, so none where it is an error."""
        self.history: deque[float | None] = deque(maxlen=HISTORY)
        self.cpus: dict[int, deque[float | None]] = {}

    def take(self, sample: Sample, began: float) -> None:
        """Take a sample, once however often it is given."""
        if sample is self.sample:
            return
        self.sample = sample
        rates = sample.rates
        # Where a sample is missing the graph has a gap.
        self.history.append(rates.cpu.busy if rates and rates.cpu else None)
        self.figures = figures_of(sample)
        if sample.snapshot is None:
            return
        self.good, self.good_at = sample, began
        if rates is not None and rates.per_cpu is not None:
            # Those that are gone are forgotten: a server could go on to name others.
            self.cpus = {cpu: self.cpus.get(cpu, deque(maxlen=HISTORY)) for cpu in rates.per_cpu}
            for cpu, one in rates.per_cpu.items():
                self.cpus[cpu].append(one.busy if one else None)

    def age(self, now: float) -> float:
        """Return for how many seconds the host has said nothing."""
        return max(now - self.good_at, 0.0)

    def state(self, now: float, limit: float) -> State:
        """Return how far the figures can be trusted, which are stale after `limit` seconds."""
        if self.sample is not None and self.sample.error is not None:
            return State.FAILED
        if self.good is None:
            return State.WAITING
        if self.age(now) > limit:
            return State.STALE
        return State.PARTIAL if self.figures.problems else State.FRESH

    def problem(self) -> str:
        """Return what went wrong with the last sample, if anything did."""
        if self.sample is None or self.sample.error is None:
            return "; ".join(self.figures.problems)
        return str(self.sample.error) or type(self.sample.error).__name__


class Watch:
    """Pollers of groups of hosts, and what each host said last.

    Parameters
    ----------
    groups : sequence of dict
        The arguments of a `Poller` each.
    interval : float
        How often each host is read, in seconds.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], interval: float) -> None:
        now = time.monotonic()
        self.groups = groups
        self.interval = interval
        # A turn that is left out makes no host stale; two do.
        self.limit = 2.5 * interval
        self.pollers = [Poller(interval=interval, **group) for group in groups]
        self.hosts = {name: Watched(name, now) for group in groups for name in group["hosts"]}

    def start(self) -> None:
        """Start to read the hosts."""
        for poller in self.pollers:
            poller.start()

    def stop(self) -> None:
        """Stop to read the hosts, within a second."""
        end(self.pollers, ())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def take(self) -> None:
        """Take what the hosts have said until now."""
        for poller in self.pollers:
            latest = poller.latest()
            now = time.monotonic()
            for name, (sample, age) in latest.items():
                self.hosts[name].take(sample, now - age)

    def closer(self, name: str) -> "Watch":
        """Return a watch of one host that reads all there is, at least once a second."""
        group, = (group for group in self.groups if name in group["hosts"])
        one = {**group, "hosts": {name: group["hosts"][name]}, "fields": pyvirhost.ALL_FIELDS}
        return Watch([one], min(self.interval, 1.0))


# ---- text ---------------------------------------------------------------------------------------

def brief(amount: int) -> str:
    """Return a number of bytes in few letters, as in ``"3.0G"``."""
    from humanize import naturalsize

    return naturalsize(amount, gnu=True, format="%.1f").replace(".0K", "K")


def age_text(seconds: float) -> str:
    """Return an age, which is not shown to be younger than it is by more than a second."""
    return f"{seconds:.0f} s" if seconds < 99.5 else duration(seconds)


def percent(share: float | None) -> str:
    """Return a share of the time."""
    return UNKNOWN if share is None else f"{share * 100:.1f}%"


def graph(history: Iterable[float | None], width: int) -> str:
    """Return the last shares of a history as bars, with gaps where nothing is known."""
    bars = "".join(
        " " if share is None else BARS[min(int(share * len(BARS)), len(BARS) - 1)]
        for share in history)
    return bars[-width:].rjust(width)


def level(busy: float | None) -> str:
    """Return the colour of how busy a CPU is."""
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
        By which rows have its cells.
    title : str
    width : int
    left : bool
        Whether it holds words, which stand to the left.
    rank : int
        The higher it is, the sooner the column is left out where there is no room for all.
    key : str
        What to press to sort by it.
    order : callable, optional
        By which hosts are sorted; those of which it says None are the last.
    descending : bool
        Whether the highest are wanted first.
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
    """The text of a row by column, and what stands in place of the cells that are missing."""

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
    """Return the columns for which there is room, the first of them with all that is left.

    The room beyond what the first needs goes to it, up to twice its width.
    """
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
    """Return the row of a host: its figures, or why there are none that are not old."""
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
        # There is no room for more than a few.
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
        One that can be sorted by.
    reverse : bool
        Whether to sort against the order that the column has of itself.
    wanted : str
        Part of a name, in whatever case.
    """
    assert column.order is not None
    wanted = wanted.casefold()
    keyed = [(column.order(host), host) for host in hosts if wanted in host.name.casefold()]
    known = [pair for pair in keyed if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=column.descending != reverse)
    return [host for _, host in known] + [host for key, host in keyed if key is None]


# ---- one host, closely --------------------------------------------------------------------------

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
    """Return the columns for the NUMA cells of a host, which has pages of its own sizes."""
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
    free = snapshot.cells_free_memory or {}
    if cell in free:
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
    """Return what is said of a host as a whole: lines, each with its colour."""
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
    # What is from before the trouble looks like it.
    colour = "" if trusted else "dim"
    info = snapshot.node_info
    if info is not None:
        lines.append((f"{printable(info.model)}, {info.cpus} CPUs at {info.mhz} MHz, "
                      f"{info.nodes} cells, {brief(info.memory * KIB)}", colour))
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

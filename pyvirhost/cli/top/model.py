"""Hosts that are read continuously, and the last answer of each."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

import pyvirhost
from pyvirhost.poll.host import Host
from pyvirhost.poll.link import without_frames
from pyvirhost.poll.poller import Poller
from pyvirhost.poll.sample import Sample
from pyvirhost.values import free_huge_pages, ksm_values, memory_in_use

FIELDS = ("node_info", "cpu_stats", "memory_stats", "free_memory", "cells_free_memory",
          "free_pages", "memory_parameters")
"""What to read from every host. Each CPU costs a round trip, so only one host's CPUs are read."""
HISTORY = 120
"""How many samples a graph shows, if there is room for them."""


class State(StrEnum):
    """How far a host's figures can be trusted."""

    WAITING = "wait"
    """There are none yet."""
    FRESH = "ok"
    PARTIAL = "part"
    """They are fresh, but some of them could not be read."""
    STALE = "stale"
    """They are older than they should be, although nothing failed."""
    FAILED = "error"
    """The last attempt to read the host failed: they are from before."""


class Figures(NamedTuple):
    """The figures of a sample, each None if the host does not report it."""

    busy: float | None = None
    user: float | None = None
    kernel: float | None = None
    iowait: float | None = None
    idle: float | None = None
    used: int | None = None
    """Memory in bytes that is neither free, even as huge pages, nor known to be a cache."""
    total: int | None = None
    cells: tuple[int, ...] = ()
    """The free memory of each NUMA cell in bytes."""
    huge: tuple[tuple[int, int], ...] = ()
    """The size of each kind of huge page in bytes, the biggest first, and how many are free."""
    ksm: int | None = None
    """How many pages KSM saves."""
    problems: tuple[str, ...] = ()
    """What could not be read, except what the host does not support."""


def figures_of(sample: Sample) -> Figures:
    """Return the figures of a sample."""
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
    """A host, its last answer, and how long it has been silent since.

    Parameters
    ----------
    name : str
    now : float
        When watching starts, by the monotonic clock, like all times here.
    """

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.taken: Sample | None = None
        self.sample: Sample | None = None
        """The last one, even if it is an error."""
        self.good: Sample | None = None
        """The last one that has figures; `good_at` is when it began."""
        self.good_at = now
        self.figures = Figures()
        """Those of the last sample, so none if it is an error."""
        self.history: deque[float | None] = deque(maxlen=HISTORY)
        self.cpus: dict[int, deque[float | None]] = {}

    def take(self, sample: Sample, began: float) -> None:
        """Take a sample, only once if given repeatedly. If it can't be used, that is its error."""
        if sample is self.taken:
            return
        self.taken = sample
        try:
            self.figures = figures_of(sample)
        except Exception as error:
            self.figures = Figures()
            sample = replace(sample, snapshot=None, rates=None, error=without_frames(error))
        self.sample = sample
        rates = sample.rates
        # The graph has a gap for each missing sample.
        self.history.append(rates.cpu.busy if rates and rates.cpu else None)
        if sample.snapshot is None:
            return
        self.good, self.good_at = sample, began
        if rates is not None and rates.per_cpu is not None:
            # Forget CPUs that are gone: a server could keep naming new ones.
            self.cpus = {cpu: self.cpus.get(cpu, deque(maxlen=HISTORY)) for cpu in rates.per_cpu}
            for cpu, one in rates.per_cpu.items():
                self.cpus[cpu].append(one.busy if one else None)

    def age(self, now: float) -> float:
        """Return how many seconds the host has been silent."""
        return max(now - self.good_at, 0.0)

    def state(self, now: float, limit: float) -> State:
        """Return how far the figures can be trusted; they are stale after `limit` seconds."""
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
    """A poller of hosts, and the last answer of each.

    Parameters
    ----------
    hosts : sequence of Host
    interval : float
        How often each is read, in seconds.
    fields : sequence of str
        What to read from each.
    **options
        As for `Poller`.
    """

    def __init__(self, hosts: Sequence[Host], interval: float, *,
                 fields: Sequence[str] = FIELDS, **options: Any) -> None:
        now = time.monotonic()
        self.interval = interval
        # One skipped turn makes no host stale; two do.
        self.limit = 2.5 * interval
        self.poller = Poller(hosts, interval=interval, fields=fields, **options)
        self.hosts = {host.name: Watched(host.name, now) for host in hosts}

    def start(self) -> None:
        """Start reading the hosts."""
        self.poller.start()

    def stop(self) -> None:
        """Stop reading the hosts, within a second."""
        self.poller.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def take(self) -> None:
        """Take the hosts' latest samples."""
        latest = self.poller.latest()
        now = time.monotonic()
        for name, (sample, age) in latest.items():
            self.hosts[name].take(sample, now - age)

    def closer(self, name: str) -> "Watch":
        """Return a watch of one host that reads everything, at least once a second."""
        return Watch([self.poller.hosts[name]], min(self.interval, 1.0),
                     fields=pyvirhost.ALL_FIELDS, timeout=self.interval)

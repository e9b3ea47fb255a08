"""The rows of the table: what is shown of each reading, and the figure it has to reach."""

from dataclasses import dataclass, field
from statistics import median

from benchmarks import (
    OURS,
    PYTHON,
    THEIRS,
    C,
    busy,
    calls,
    connections,
    cores,
    memory,
    poller,
    round_trips,
    start,
    throughput,
)

SOCKET, PROCESS = "unix socket", "in process"


@dataclass(frozen=True)
class Figure:
    """A bound on a row's value, or on its ratio to a contestant's.

    `at_most` or `at_least`, whichever there is; `against` is None for the value itself.
    """

    against: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self):
        sign, bound = ("≤", self.at_most) if self.at_least is None else ("≥", self.at_least)
        if self.against is None:
            return f"{sign} {bound:g}"
        return f"{sign} {bound:g} x {self.against}"

    def holds(self, value):
        """Return whether a measured value or ratio keeps to it."""
        return value <= self.at_most if self.at_least is None else value >= self.at_least


@dataclass(frozen=True)
class Row:
    """A reading as the table shows it.

    `part` names the part that measures it. The value is the samples' own, or with `over` what they
    exceed that contestant's by, or with `gain_of` how many times less than that other reading they
    take, or with `growth_of` how many times more. A row `per_second` is shown and compared as how
    many of it a second has.
    """

    part: str
    reading: str
    reach: tuple[Figure, ...] = field(default=())
    over: str | None = None
    gain_of: str | None = None
    growth_of: str | None = None
    per_second: bool = False
    title: str | None = None
    without: str = "not measured"

    def __str__(self):
        return self.title or self.reading

    def values(self, samples, contestant):
        """Return a contestant's values, in the order of the rounds."""
        values = samples.values(self.reading, contestant)
        if not values or (contestant == C and self.over is not None):
            return []
        if self.over is not None:
            base = samples.values(self.reading, self.over)
            return [value - bare for value, bare in zip(values, base, strict=True)]
        if self.gain_of is not None:
            base = samples.values(self.gain_of, contestant)
            return [one / value for value, one in zip(values, base, strict=True)]
        if self.growth_of is not None:
            base = samples.values(self.growth_of, contestant)
            return [value / one for value, one in zip(values, base, strict=False)]
        if self.per_second:
            return [1 / value for value in values]
        return values

    def unit(self, samples):
        """Return the unit of the values."""
        if self.gain_of is not None or self.growth_of is not None:
            return "times"
        if self.per_second:
            return "per second"
        return samples.units.get(self.reading)

    def value(self, samples, contestant):
        """Return a contestant's median, or None."""
        values = self.values(samples, contestant)
        return median(values) if values else None

    def ratio(self, samples, contestant):
        """Return the median of the rounds' ratios of ours to a contestant's, or None."""
        pairs = zip(self.values(samples, OURS), self.values(samples, contestant), strict=False)
        ratios = [ours / other for ours, other in pairs if other]
        return median(ratios) if ratios else None

    def reached(self, samples, figure):
        """Return whether a figure is reached, or None where it was not measured."""
        if figure.against is None:
            found = self.value(samples, OURS)
        else:
            found = self.ratio(samples, figure.against)
        return None if found is None else figure.holds(found)


def most(ratio, against):
    """Return the figure of at most so many times that contestant."""
    return Figure(against, at_most=ratio)


TWICE_C = most(2.0, C)
REACH = {
    calls.reading("node_info", PROCESS): (TWICE_C, most(0.45, THEIRS)),
    calls.reading("cpu_stats", PROCESS): (most(3.0, C), most(0.25, THEIRS)),
    calls.reading("cpu_stats(out=)", PROCESS): (TWICE_C,),
    calls.reading("free_memory", PROCESS): (TWICE_C,),
    calls.reading("free_pages", PROCESS): (most(0.6, THEIRS),),
    calls.reading("is_alive", PROCESS): (TWICE_C,),
    calls.reading("per_cpu_stats of 16 CPUs", PROCESS): (TWICE_C, most(0.1, THEIRS)),
    calls.reading("snapshot of 4", SOCKET): (most(1.10, C),),
}
TRIPS = {"cpu_stats": 1, "memory_stats": 1, round_trips.SNAPSHOT: 4, "memory_parameters": 2,
         round_trips.SET: 2}
SIX = max(busy.COUNTS)
EIGHT = max(throughput.THREADS)
NEEDS_INTERPRETER = "FREETHREADED names no such Python"
NEEDS_ROOT = "only root may set it"
NOT_QUICK = "takes longer than QUICK"

ROWS = (
    *(Row(calls.part(place), calls.reading(name, place),
          REACH.get(calls.reading(name, place), ()))
      for place, rows in calls.PLACES.items() for name in rows),
    Row(busy.PART, busy.reading(SIX, False)),
    Row(busy.PART, busy.reading(SIX, True), (most(0.15, THEIRS),)),
    Row(start.PART, start.IMPORT, (Figure(at_most=0.005), most(0.15, THEIRS)), over=PYTHON,
        title="import, over a bare Python"),
    Row(start.PART, start.FIRST, (most(0.6, THEIRS),),
        title="import, open, node_info: whole process"),
    Row(start.PART, start.FIRST, over=PYTHON,
        title="import, open, node_info: over a bare Python"),
    *(Row(throughput.PART, throughput.reading(EIGHT, how), (Figure(THEIRS, at_least=1.5),),
          per_second=True)
      for how in (throughput.SNAPSHOT, throughput.CALLS)),
    Row(memory.PART, memory.READING, (most(0.3, THEIRS),), without="needs glibc 2.33 or newer"),
    Row(cores.part(cores.WITH), cores.reading(2, cores.WITH),
        gain_of=cores.reading(1, cores.WITH),
        title="2 threads' gain over 1, with the GIL"),
    Row(cores.part(cores.WITHOUT), cores.reading(2, cores.WITHOUT), (Figure(at_least=1.8),),
        gain_of=cores.reading(1, cores.WITHOUT),
        title="2 threads' gain over 1, without the GIL", without=NEEDS_INTERPRETER),
    *(Row(round_trips.PART, round_trips.reading(name), (Figure(at_most=TRIPS[name]),))
      for name in round_trips.READ),
    Row(round_trips.SETTING, round_trips.reading(round_trips.SET),
        (Figure(at_most=TRIPS[round_trips.SET]),), without=NEEDS_ROOT),
    *(Row(connections.part(count), connections.reading(count),
          (most(0.08, THEIRS),) if count == 1000 else ()) for count in connections.COUNTS),
    Row(connections.part(connections.MANY), connections.reading(connections.MANY),
        without=NOT_QUICK),
    Row(connections.part(10, loop=False), connections.reading(10, loop=False)),
    Row(connections.part(1000), connections.reading(1000), (Figure(at_most=1.3),),
        growth_of=connections.reading(10), title="CPU a reading, 1,000 connections ÷ 10"),
    Row(connections.part(connections.MANY), connections.reading(connections.MANY),
        (Figure(at_most=1.6),), growth_of=connections.reading(10), without=NOT_QUICK,
        title="CPU a reading, 5,000 connections ÷ 10"),
    Row(connections.part(10), connections.reading(10), (Figure(at_most=1.1),),
        growth_of=connections.reading(10, loop=False),
        title="CPU a reading, 10 connections, with event loop and keepalive ÷ without"),
    Row(poller.part("in_process"), poller.COST, (Figure(at_most=70e-6),)),
    Row(poller.part("one_daemon"), poller.LATE, (Figure(at_most=0.5),), without=NOT_QUICK),
    Row(poller.part("some_hang"), poller.NONE_HANG, without=NOT_QUICK),
    Row(poller.part("some_hang"), poller.SOME_HANG, (Figure(at_most=0.5),), without=NOT_QUICK),
    Row(poller.part("memory"), poller.MEMORY, without=NOT_QUICK),
    Row(poller.part("thousand"), poller.share(1000), (Figure(at_most=0.08),), without=NOT_QUICK),
    Row(poller.part("thousand"), poller.late(1000), without=NOT_QUICK),
    Row(poller.part("thousand"), poller.a_core(1000), per_second=True, without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.share(5000), (Figure(at_most=0.25),),
        without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.due(5000), (Figure(at_least=0.99),),
        without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.late(5000), (Figure(at_most=0.1),),
        without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.LOST, (Figure(at_most=20),), without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.BACK, without=NOT_QUICK),
    Row(poller.part("five_thousand"), poller.REMOTE_MEMORY, (Figure(at_most=40 << 10),),
        without=NOT_QUICK),
)

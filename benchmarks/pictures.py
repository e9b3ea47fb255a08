"""The README's pictures."""

from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import OURS, THEIRS, C, busy, calls, connections, throughput
from benchmarks.figures import ROWS

COLOURS = {OURS: "#1f6fb4", THEIRS: "#c8501e", C: "#555555"}
STYLE = {
    "svg.fonttype": "none",      # text stays text
    "svg.hashsalt": "pyvirhost",  # and what has not changed stays the same file
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SIZE = (7, 3.6)


def draw(samples, folder):
    """Write one SVG file for each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, picture in (("connections", by_connections), ("calls", per_call),
                              ("busy", beside_busy), ("threads", by_threads)):
            figure = Figure(SIZE, layout="constrained")
            picture(figure.subplots(), samples)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def by_connections(axes, samples):
    """Draw the CPU that a reading takes by the number of connections."""
    for contestant in (OURS, THEIRS):
        counts = [count for count in (*connections.COUNTS, connections.MANY)
                  if samples.values(connections.reading(count), contestant)]
        values = [samples.median(connections.reading(count), contestant) for count in counts]
        axes.plot(counts, [value * 1e3 for value in values], "o-", markersize=4,
                  color=COLOURS[contestant], label=contestant)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(8, 10_000)
    axes.set_ylim(0.1, 10)
    axes.set_xlabel("connections with keepalive")
    axes.set_ylabel("CPU for a reading of four calls, ms")
    axes.legend(frameon=False, fontsize=8)


def per_call(axes, samples):
    """Draw the cost of calls in process as multiples of C's."""
    names = [calls.reading(name, place) for place in ("in process", "16 CPUs")
             for name in calls.PLACES[place]]
    rows = [row for row in reversed(ROWS) if row.reading in names and row.value(samples, OURS)]
    for number, row in enumerate(rows):
        cost = {OURS: row.ratio(samples, C)}
        cost[THEIRS] = median(theirs / c for theirs, c in zip(
            row.values(samples, THEIRS), row.values(samples, C), strict=True))
        for shift, contestant in ((0.2, OURS), (-0.2, THEIRS)):
            bars = axes.barh(number + shift, cost[contestant], 0.36, color=COLOURS[contestant],
                             label=contestant if number == 0 else None)
            axes.bar_label(bars, [f"{cost[contestant]:.1f}"], padding=2, fontsize=8)
    axes.axvline(1, color=COLOURS[C], label=C)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.reading.removesuffix(", in process") for row in rows])
    axes.set_xlabel("time of a call in process, in times of the C call")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)


def beside_busy(axes, samples):
    """Draw how long readings take beside a busy thread, by their number."""
    for contestant in (OURS, THEIRS, C):
        for is_busy, style in ((True, "o-"), (False, "o:")):
            values = [samples.median(busy.reading(count, is_busy), contestant)
                      for count in busy.COUNTS]
            axes.plot(busy.COUNTS, [value * 1e3 for value in values], style, markersize=4,
                      color=COLOURS[contestant], label=contestant if is_busy else None)
    axes.plot([], [], "k:", label="without a busy thread")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("readings of the host at a time, beside one busy Python thread")
    axes.set_ylabel("ms")
    axes.legend(frameon=False, fontsize=8)


def by_threads(axes, samples):
    """Draw how many times a second threads read a host."""
    lines = ((OURS, throughput.SNAPSHOT, "o-", "pyvirhost, snapshots"),
             (OURS, throughput.CALLS, "o--", "pyvirhost, calls"),
             (THEIRS, throughput.CALLS, "o-", THEIRS), (C, throughput.CALLS, "o-", C))
    for contestant, how, style, label in lines:
        values = [samples.median(throughput.reading(threads, how), contestant)
                  for threads in throughput.THREADS]
        axes.plot(throughput.THREADS, [1 / value for value in values], style, markersize=4,
                  color=COLOURS[contestant], label=label)
    axes.set_xticks(throughput.THREADS)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threads, each with a connection of its own over a unix socket")
    axes.set_ylabel("hosts read a second")
    axes.legend(frameon=False, fontsize=8)

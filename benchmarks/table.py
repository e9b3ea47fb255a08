"""The tables that are printed."""

from benchmarks import OURS, THEIRS, C, scale
from benchmarks.figures import ROWS

SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BYTES = ((2**20, "MiB"), (2**10, "KiB"), (1, "B"))
FAILED = "failed"
REACHED = {True: "yes", False: "no", None: "?"}


def shown(value, unit):
    """Return a value for people to read."""
    if value is None:
        return "-"
    if unit in ("second", "byte"):
        steps = SECONDS if unit == "second" else BYTES
        size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
        return f"{three_digits(value / size)} {name}"
    if unit == "per second":
        return f"{value:,.0f} /s"
    if unit == "times":
        return f"{value:.2f} x"
    return f"{value:g}" if value == int(value) else f"{value:.3g}"


def three_digits(value):
    """Return a number of about three digits."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def shown_ratio(ratio):
    """Return a ratio for people to read."""
    return "-" if ratio is None else f"{ratio:.2f}"


def layout(head, rows):
    """Return rows of text as a Markdown table, the first column left and the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells):
        return "| " + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-")
                          for column, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def figures(samples, failed):
    """Return the table of all readings: medians, the medians of paired ratios, what is reached.

    `failed` has the names of the parts that failed.
    """
    head = ("reading", OURS, THEIRS, C, f"÷ {THEIRS}", f"÷ {C}", "to reach", "reached")
    rows = []
    for row in ROWS:
        unit = row.unit(samples)
        values = [row.value(samples, contestant) for contestant in (OURS, THEIRS, C)]
        reach = " and ".join(map(str, row.reach))
        if values[0] is None:
            why = FAILED if row.part in failed else row.without
            rows.append((str(row), why, *"----", reach, "?" if reach else ""))
            continue
        reached = ", ".join(REACHED[row.reached(samples, figure)] for figure in row.reach)
        rows.append((str(row), *(shown(value, unit) for value in values),
                     shown_ratio(row.ratio(samples, THEIRS)), shown_ratio(row.ratio(samples, C)),
                     reach, reached))
    return layout(head, rows)


def scaling(samples, failed):
    """Return the table of what a host costs among many."""
    a_host = ("opening", "sweep", "memory")
    head = ("connections", "of", *(f"{what} a host" for what in a_host), "files open")
    rows = []
    for place in scale.PLACES:
        for count in scale.COUNTS:
            if scale.part(count, place) in failed:
                rows.append((f"{count}, {place}", FAILED, *"----"))
            for contestant in (OURS, THEIRS):
                def found(what, share, place=place, count=count, contestant=contestant):
                    reading = scale.reading(what, count, place)
                    value = samples.median(reading, contestant)
                    return shown(None if value is None else value / share,
                                 samples.units.get(reading))

                cells = [*(found(what, count) for what in a_host), found("files", 1)]
                if samples.values(scale.reading("files", count, place), contestant):
                    rows.append((f"{count}, {place}", contestant, *cells))
    return layout(head, rows)


def comparison(earlier, now):
    """Return the table of what changed since an earlier run.

    Times are also the machine's mood on the day; the ratios, whose other side did not change, tell
    whether pyvirhost did.
    """
    head = ("reading", "before", "now", "now ÷ before", f"÷ {THEIRS} before", "now",
            f"÷ {C} before", "now")
    rows = []
    for row in ROWS:
        before, after = row.value(earlier, OURS), row.value(now, OURS)
        if before is not None and after is not None:
            unit = row.unit(now)
            ratios = [shown_ratio(row.ratio(samples, contestant))
                      for contestant in (THEIRS, C) for samples in (earlier, now)]
            rows.append((str(row), shown(before, unit), shown(after, unit),
                         shown_ratio(after / before if before else None), *ratios))
    return layout(head, rows)

"""Text for people: titled pairs and tables, and readable numbers.

Only this needs rich and humanize, from the extra ``pyvirhost[cli]``, and only when called.
"""

import sys
from collections.abc import Container, Iterable, Sequence
from typing import IO, NamedTuple

NOT_SUPPORTED = "not supported"
UNKNOWN = "unknown"
LONGEST = 1000
"""How many characters of a text are shown, since a server may send four million."""


class Problem(str):
    """A cell that says what failed, and colours its row."""

    __slots__ = ()


class Whole(str):
    """A text that is never cut."""

    __slots__ = ()


class Section(NamedTuple):
    """One part of the text: pairs of label and value, a table, both, or only a title.

    The table's columns are right-aligned, for numbers, unless their title is in `words`.
    """

    title: str = ""
    pairs: Sequence[tuple[str, str]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: Container[str] = ()


def print_sections(sections: Iterable[Section], file: IO[str] | None = None) -> None:
    """Print sections: with colours on a terminal, plain and unwrapped elsewhere.

    Parameters
    ----------
    sections : iterable of Section
        Separated by empty lines.
    file : text file, optional
        By default standard output.

    Raises
    ------
    ImportError
        rich or humanize is not installed.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = file or sys.stdout
    # Names and messages come from the host: anything in them that looks like markup is not.
    console = Console(file=file, markup=False, emoji=False, highlight=False)
    if not (file and file.isatty()):
        console.width = 1_000_000  # rich would wrap at 80
    with console.capture() as capture:
        for section in sections:
            console.print(Text(f"\n{printable(section.title)}", style="bold"))
            indent = 2 if section.title else 0
            for lines, header in ((section.pairs, ()), (section.rows, section.header)):
                table = Table(box=None, padding=(0, 2 - indent, 0, indent),
                              show_header=bool(header))
                for title in header:
                    table.add_column(
                        printable(title), header_style="cyan", overflow="fold",
                        justify="left" if title in section.words else "right")
                if not header:
                    table.add_column(style="cyan", no_wrap=True)
                for line in lines:
                    table.add_row(*map(printable, line), style=style_of(line))
                if lines:
                    console.print(table)
    # rich fills lines up to the table's width.
    text = "\n".join(line.rstrip() for line in capture.get().strip("\n").split("\n"))
    print(encodable(text, file), file=file, flush=True)


def style_of(line: Sequence[str]) -> str | None:
    """Return a line's style, if there are colours."""
    if any(isinstance(cell, Problem) for cell in line):
        return "red"
    return "dim" if NOT_SUPPORTED in line else None


def encodable(text: str, file: IO[str] | None) -> str:
    """Return `text` with each character that a file's encoding lacks escaped."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable(text: str) -> str:
    """Return `text` on one line, without control characters that a terminal would obey.

    It is cut after `LONGEST` characters, unless it is `Whole`.
    """
    if len(text) > LONGEST and not isinstance(text, Whole):
        text = f"{text[:LONGEST]}... ({len(text):,} characters)"
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text)


# ---- readable numbers ---------------------------------------------------------------------------

def yes_or_no(value: bool) -> str:
    """Return ``"yes"`` or ``"no"``."""
    return "yes" if value else "no"


def counted(count: int, thing: str) -> str:
    """Return how many of a thing there are, as in ``"2 cores"``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def size(amount: int, format: str = "%.1f") -> str:
    """Return a number of bytes, as in ``"3.0 GiB"``."""
    from humanize import naturalsize

    return naturalsize(amount, binary=True, format=format)


def duration(seconds: float) -> str:
    """Return a time in its largest unit, as in ``"9.6 h"``."""
    # humanize raises for two thousand years or more, which the CPUs of a big host can reach.
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds * 1000:.0f} ms"


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as ranges, as in ``"0-3,8"``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)

"""Standard output and standard error, either of which may be closed, full or without a reader."""

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO

from pyvirhost.cli.text import Section, Whole, encodable, print_sections, printable

HOST_FAILED = 1
WRONG_COMMAND_LINE = 2


class PrintingError(Exception):
    """Standard output takes no more; `status` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def fill_standard_streams() -> None:
    """Keep later files from taking the number of a closed standard stream."""
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)


def on_terminal(file: IO[str] | None) -> bool:
    """Return whether a file is a terminal."""
    return file is not None and file.isatty()


# ---- standard output ----------------------------------------------------------------------------

def write(text: str) -> None:
    """Print lines on standard output.

    Raises
    ------
    PrintingError
        Standard output takes no more. Unless its reader has left, standard error says why.
    """
    printing(lambda: print(encodable(text, sys.stdout), flush=True))


def write_lines(text: str) -> None:
    """Print lines as they are, or made safe for a terminal."""
    lines = text.rstrip("\n").split("\n")
    if on_terminal(sys.stdout):
        lines = [printable(Whole(line.replace("\t", "    "))) for line in lines]
    write("\n".join(lines))


def write_sections(sections: Iterable[Section]) -> None:
    """Print sections on standard output."""
    printing(lambda: print_sections(sections))


def printing(show: Callable[[], object]) -> None:
    """Call a function that prints on standard output, and raise `PrintingError` as `write` does."""
    try:
        show()
    except OSError as error:
        give_up(sys.stdout)
        # A reader such as head has all it wanted.
        raise PrintingError(0 if isinstance(error, BrokenPipeError) else fail(
            f"cannot print: {error.strerror}")) from None


# ---- standard error -----------------------------------------------------------------------------

def say(text: str, end: str = "\n") -> None:
    """Print text on standard error, if possible, with control characters made harmless."""
    if sys.stderr is None:
        return  # print would use standard output
    try:
        print(printable(text), end=end, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def fail(message: str, status: int = HOST_FAILED) -> int:
    """Print why the command failed, on one line, and return its exit status."""
    say(f"pyvirhost: {' '.join(message.split())}")
    return status


def give_up(stream: IO[str]) -> None:
    """Stop printing on a stream."""
    # Python flushes it again at exit, and would complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

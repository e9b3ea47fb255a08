"""Printing the hosts' answers: as JSON, as text for one host, or as a row for each."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirhost.cli.commands.command import Command, Row
from pyvirhost.cli.output import fail, write, write_lines, write_sections
from pyvirhost.cli.sweep import problem
from pyvirhost.cli.text import Problem, Section, printable
from pyvirhost.values import error_values

if TYPE_CHECKING:
    from pyvirhost.poll.link import Answer

WORDS = frozenset({
    "Host", "Error", "Model", "Hostname", "URI", "Driver", "Online CPUs", "Offline CPUs",
    "Parameter", "Architecture", "CPU of the host", "Suspending to",
})
"""The titles of columns that hold words, not numbers."""


class Shown(NamedTuple):
    """An answer as it is printed."""

    failed: bool
    """Whether it counts as a failure in the exit status, although there is an answer."""
    page: Any


def show(command: Command, answers: "Sequence[Answer[Any]]", arguments: argparse.Namespace, *,
         several: bool, listed: bool) -> bool:
    """Print the hosts' answers, and return whether any host failed.

    Parameters
    ----------
    command : Command
    answers : sequence of Answer
    arguments : argparse.Namespace
    several : bool
        Whether there are several hosts.
    listed : bool
        Whether JSON is a list.

    Raises
    ------
    ImportError
        Text needs a library that is not installed.
    PrintingError
        Standard output takes no more.
    """
    joined = command.joins(arguments)

    def convert(answer: "Answer[Any]") -> Shown:
        page: Any
        if arguments.json:
            page = json_of(answer, arguments, named=listed and not joined)
        elif several and not joined and command.rows:
            page = as_rows(command.rows(answer.result))
        else:
            page = page_of(command, answer.result)
        return Shown(command.failed(answer.result), page)

    shown = [converted(answer, convert) for answer in answers]
    if arguments.json:
        print_json(shown, arguments, listed=listed)
    elif several and not joined:
        print_several(command, shown)
    else:
        for answer in shown:
            print_one(answer, named=several)
    return any(answer.result is None or answer.result.failed for answer in shown)


def converted(answer: "Answer[Any]", convert: "Callable[[Answer[Any]], Shown]"
              ) -> "Answer[Shown]":
    """Return an answer with its result converted. Whatever the conversion raises is its error."""
    from pyvirhost.poll.link import without_frames

    if answer.error is not None:
        return replace(answer, result=None)
    try:
        return replace(answer, result=convert(answer))
    except ImportError:
        raise
    except Exception as error:
        return replace(answer, result=None, error=without_frames(error))


# ---- JSON ---------------------------------------------------------------------------------------

def json_of(answer: "Answer[Any]", arguments: argparse.Namespace, *, named: bool) -> str:
    """Return an answer as JSON: with its host's name if in a list, with its time if watching."""
    stamp: dict[str, Any] = {"host": answer.host.name} if named else {}
    if arguments.watch is not None:
        stamp["started_at"] = round(answer.started_at, 3)
    values: dict[str, Any] = {} if answer.result is None else answer.result
    if answer.error is not None:
        values = {"error": error_values(answer.error, problem(answer))}
    # The server chooses some of the names, and must not speak for another host.
    return json.dumps(stamp | values | stamp, allow_nan=False,
                      indent=None if arguments.watch is not None else 2)


def print_json(answers: "Sequence[Answer[Shown]]", arguments: argparse.Namespace, *,
               listed: bool) -> None:
    """Print JSON, on one line if watching."""
    texts = [answer.result.page if answer.result is not None else
             json_of(answer, arguments, named=listed) for answer in answers]
    if listed and arguments.watch is not None:
        write(f"[{', '.join(texts)}]")
    elif listed:
        write("[\n" + ",\n".join(
            "\n".join(f"  {line}" for line in text.split("\n")) for text in texts) + "\n]")
    else:
        for answer, text in zip(answers, texts, strict=True):
            if answer.error is not None:
                fail(problem(answer))
            write(text)


# ---- text ---------------------------------------------------------------------------------------

def page_of(command: Command, result: Any) -> str | Sequence[Section]:
    """Return a host's answer as lines of text, or as sections."""
    if command.text:
        return command.text(result)
    if command.sections:
        return command.sections(result)
    assert command.rows is not None
    rows = command.rows(result)
    if len(titles_of(as_rows(rows))) == 1:
        return "\n".join(printable(cell) for row in as_rows(rows) for cell in row.values())
    return [Section(pairs=list(rows.items())) if isinstance(rows, Mapping) else table_of(rows)]


def print_one(answer: "Answer[Shown]", *, named: bool) -> None:
    """Print the answer of a single host, or the joint answer of all."""
    if answer.result is None:
        fail(f"{answer.host.name}: {problem(answer)}" if named else problem(answer))
    else:
        print_page(answer.result.page)


def print_page(page: str | Sequence[Section]) -> None:
    """Print lines of text, or sections."""
    if isinstance(page, str):
        write_lines(page)
    else:
        write_sections(page)


def print_several(command: Command, answers: "Sequence[Answer[Shown]]") -> None:
    """Print the answers and errors of several hosts."""
    if command.text:
        for answer in answers:
            if answer.result is None:
                print_one(answer, named=True)
            else:
                write(f"{printable(answer.host.name)}:")
                print_page(answer.result.page)
        return
    rows: list[Row] = []
    for answer in answers:
        host = {"Host": answer.host.name}
        if answer.result is None:
            rows.append({**host, "Error": Problem(problem(answer))})
        else:
            rows += [{**host, **row, **host} for row in answer.result.page]
    write_sections([table_of(rows)])


def as_rows(rows: Row | Sequence[Row]) -> Sequence[Row]:
    """Return rows as a sequence, even if there is only one."""
    return [rows] if isinstance(rows, Mapping) else rows


def titles_of(rows: Sequence[Row]) -> list[str]:
    """Return the titles of all columns, with the errors' last."""
    return sorted(dict.fromkeys(title for row in rows for title in row), key="Error".__eq__)


def table_of(rows: Sequence[Row]) -> Section:
    """Return rows as a table."""
    titles = titles_of(rows)
    return Section(header=titles, rows=[[row.get(title, "") for title in titles] for row in rows],
                   words=WORDS)

"""Asking all hosts a question for the command line, with a progress bar for whoever waits."""

import sys
import threading
from collections.abc import Callable, Iterable, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pyvirhost
from pyvirhost.cli.output import on_terminal, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirhost.poll.fleet import Fleet
    from pyvirhost.poll.link import Answer, Question

PATIENCE = 1.0
"""How many seconds a sweep takes before it gets a progress bar."""
REDRAWN = 0.1


class Sweep:
    """Ask a fleet, and wait until all hosts have answered.

    Parameters
    ----------
    fleet : Fleet
    on_answer : callable, optional
        Called with each answer as it comes.
    """

    def __init__(self, fleet: "Fleet", on_answer: "Callable[[Answer[Any]], object] | None" = None
                 ) -> None:
        self.fleet = fleet
        self.hosts = list(fleet.hosts)
        self.on_answer = on_answer

    def ask(self, question: "Question[Any]", hosts: Iterable[str] | None = None
            ) -> "list[Answer[Any]]":
        """Return the answers of all hosts, or of some, in the hosts' order."""
        names = self.hosts if hosts is None else list(hosts)
        answers: dict[str, Answer[Any]] = {}
        with progress(answers, len(names)):
            for answer in self.fleet.ask(question, names):
                answers[answer.host.name] = answer
                if self.on_answer is not None:
                    self.on_answer(answer)
        return [answers[name] for name in names]


def problem(answer: "Answer[Any]") -> str:
    """Return a message that says what went wrong."""
    message = str(answer.error) or type(answer.error).__name__
    return message if answer.connected else (
        f"cannot open {answer.host.uri or 'the default URI'}: {message}")


def tell(answer: "Answer[Any]") -> None:
    """Print on standard error how long a host took, and its error."""
    text = f"{answer.host.name}: {answer.duration * 1000:.1f} ms"
    error = answer.error
    if isinstance(error, pyvirhost.LibvirtError):
        text += f"; {type(error).__name__} of {error.function}, code {error.code!r}, domain " \
                f"{error.domain!r}: {error.message}"
    elif error:
        text += f"; {type(error).__name__}: {error}"
    say(text)


@contextmanager
def progress(done: Sized, total: int) -> "Iterator[None]":
    """Draw how many of `total` are done, if that is more than one and takes a while.

    The bar is drawn on standard error, only on a terminal, and disappears at the end.
    """
    if total < 2 or not on_terminal(sys.stderr):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=draw, args=(done, total, ended), daemon=True)
    with suppress(RuntimeError):  # there is no room for it
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join(PATIENCE)


def draw(done: Sized, total: int, ended: threading.Event) -> None:
    """Draw a bar after a while, and until the end."""
    if ended.wait(PATIENCE):
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hosts", total=total)
        while not ended.wait(REDRAWN):
            bar.update(task, completed=len(done))

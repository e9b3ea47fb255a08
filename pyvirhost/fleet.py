"""One question to many hosts at once, each in a thread of its own that nobody has to wait for."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import pyvirhost

if TYPE_CHECKING:
    from pyvirhost import Connection
    from pyvirhost.auth import Authenticator
    from pyvirhost.hosts import Host

Reading = Callable[["Connection"], Any]

PARALLEL = 32
"""How many hosts are asked at a time, which for ssh is how many processes there are."""
PATIENCE = 1.0
"""After how many seconds a sweep is so long that it deserves a progress bar."""


class Answer(NamedTuple):
    """What a host said, or why it said nothing."""

    host: "Host"
    result: Any
    error: Exception | None
    opened: bool
    """Whether there was a connection, which tells a host's fault from that of its URI."""
    started_at: float
    """When it was asked, in seconds since the epoch."""
    duration: float
    """How many seconds it took."""

    @property
    def problem(self) -> str:
        """What went wrong, in words."""
        return str(self.error) if self.opened else (
            f"cannot open {self.host.uri or 'the default URI'}: {self.error}")


class Session:
    """A host and its connection, which is opened at the first use and after every loss.

    Parameters
    ----------
    host : Host
    readonly : bool
        Whether a connection that can't change the host will do.
    stays_open : bool
        Whether there will be more questions.
    auth : callable, optional
        Who answers when the host asks for credentials.
    """

    def __init__(self, host: "Host", *, readonly: bool, stays_open: bool,
                 auth: "Authenticator | None" = None) -> None:
        self.host = host
        self.readonly = readonly
        self.stays_open = stays_open
        self.auth = auth
        self.connection: Connection | None = None
        self.running: Future[Answer] | None = None

    @property
    def busy(self) -> bool:
        """Whether an earlier question still waits for its answer."""
        return self.running is not None and not self.running.done()

    def begin(self, reading: Reading) -> "Future[Answer]":
        """Ask in a thread of its own and return the answer to come."""
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                future.set_result(self.ask(reading))
            except BaseException as error:
                future.set_exception(error)

        self.running = future
        # An executor's threads hold up the end of the process, and a host that hangs holds up its
        # thread: of this one the process does not wait.
        Thread(target=run, name=f"pyvirhost-{self.host.name}", daemon=True).start()
        return future

    def ask(self, reading: Reading) -> Answer:
        """Return the answer; whatever a reading raises is that of its host."""
        started_at, started = time.time(), time.monotonic()
        result: Any = None
        error: Exception | None = None
        opened = True
        try:
            if self.connection is None:
                opened = False
                self.connection = self.host.open(readonly=self.readonly, auth=self.auth)
                opened = True
            result = reading(self.connection)
        except Exception as exception:
            error = exception
            if isinstance(error, pyvirhost.ConnectionLostError):
                self.close()
        finally:
            if not self.stays_open:
                self.close()
        return Answer(self.host, result, error, opened, started_at, time.monotonic() - started)

    def late(self, started_at: float, duration: float) -> Answer:
        """Return the answer of a host that has not answered in time, or not been asked again."""
        error = pyvirhost.OperationTimeoutError(
            f"no answer within {self.host.timeout:g} s" if duration else
            "still no answer to an earlier question")
        return Answer(self.host, None, error, True, started_at, duration)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(pyvirhost.LibvirtError):
                connection.close()


class Fleet:
    """The sessions of all hosts, which are asked together.

    Parameters
    ----------
    sessions : sequence of Session
    parallel : int
        How many to ask at a time.
    patience : float
        How many seconds a reading itself takes, which do not count as a host's.
    told : callable
        Is told each answer as it comes.
    """

    def __init__(self, sessions: Sequence[Session], *, parallel: int = PARALLEL,
                 patience: float = 0.0, told: Callable[[Answer], object] = lambda answer: None
                 ) -> None:
        self.sessions = sessions
        self.parallel = parallel
        self.patience = patience
        self.told = told

    def ask(self, reading: Reading, sessions: Sequence[Session] | None = None) -> list[Answer]:
        """Return the answers of all hosts, or of some, in their order.

        A host that takes longer than its timeout is set aside: its answer is an
        `OperationTimeoutError`, and it is not asked again before its call has come back.
        """
        sessions = self.sessions if sessions is None else sessions
        waiting = deque(sessions)
        running: dict[Future[Answer], tuple[Session, float, float]] = {}
        answers: dict[Session, Answer] = {}

        def take(session: Session, answer: Answer) -> None:
            answers[session] = answer
            self.told(answer)

        with progress(len(sessions)) as show:
            while waiting or running:
                while waiting and len(running) < self.parallel:
                    session = waiting.popleft()
                    if session.busy:
                        take(session, session.late(time.time(), 0.0))
                    else:
                        future = session.begin(reading)
                        running[future] = session, time.time(), time.monotonic()
                now = time.monotonic()
                soonest = min((started + self.limit(session) - now
                               for session, _, started in running.values()), default=0.0)
                done, _ = wait(running, max(0.0, min(soonest, PATIENCE / 4)), FIRST_COMPLETED)
                now = time.monotonic()
                for future, (session, started_at, started) in list(running.items()):
                    if future in done:
                        take(session, future.result())
                    elif now - started >= self.limit(session):
                        take(session, session.late(started_at, now - started))
                    else:
                        continue
                    del running[future]
                show(len(answers))
        return [answers[session] for session in sessions]

    def limit(self, session: Session) -> float:
        """Return how many seconds to wait for a session."""
        return (session.host.timeout or float("inf")) + self.patience


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """Give a function to tell how many of `total` are done, for a bar on a terminal.

    The bar is drawn on standard error, only for several hosts that take their time, and is gone
    at the end.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda done: None
        return
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("hosts", total=total)
    started = time.monotonic()

    def show(done: int) -> None:
        if time.monotonic() - started >= PATIENCE:
            bar.start()
        bar.update(task, completed=done)

    try:
        yield show
    finally:
        bar.stop()

"""Many hosts that can be asked any question, and none of which can delay another.

The fleet's own thread, its clock, gives questions to workers and notices which hosts take too
long. Only some of the workers may ask hosts that must be connected first, so that hosts that are
gone hold up no others. One thread at a time asks a host; while that thread hangs, no other does.
"""

import math
import time
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Self, TypeVar

import pyvirhost
from pyvirhost.poll.arguments import check_number, checked_seconds
from pyvirhost.poll.clock import Alarm, Clock
from pyvirhost.poll.host import Host, Hosts, hosts_by_name
from pyvirhost.poll.link import Answer, Link, Question, without_frames
from pyvirhost.poll.workers import Workers

T = TypeVar("T")

MOST_WORKERS = 256
"""How many hosts are asked at a time if nobody says. A thread takes little but address space."""

# How many seconds to wait at the end for threads whose hosts may hang.
_FAREWELL = 0.8


class Limit:
    """When several turns are given up, unless all are over before."""

    __slots__ = ("alarm", "turns_left")

    def __init__(self, turns_left: int, alarm: Alarm) -> None:
        self.turns_left = turns_left
        self.alarm = alarm


class Turn:
    """One question to one host.

    Parameters
    ----------
    question : callable
    deliver : callable
        Called once with the answer, under the clock's lock. It must not raise.
    came_late : callable, optional
        Called with what the host says after the question was given up.
    """

    __slots__ = ("alarm", "asked", "asked_at", "began", "came_late", "deadline", "deliver",
                 "is_over", "limit", "question", "started_at")

    def __init__(self, question: Question[Any], deliver: Callable[[Answer[Any]], object],
                 came_late: Callable[[Answer[Any]], object] | None = None) -> None:
        self.question = question
        self.deliver = deliver
        self.came_late = came_late
        self.asked, self.asked_at = time.monotonic(), time.time()
        self.began = math.inf
        self.started_at = 0.0
        self.is_over = False
        # When to give up, by the monotonic clock: together with others, or earlier alone.
        self.deadline = math.inf
        self.limit: Limit | None = None
        self.alarm: Alarm | None = None


class Member:
    """A host of a fleet: its link, its current question, and those that wait."""

    __slots__ = ("current", "fleet", "hangs", "host", "is_queued", "leaves", "link", "thread",
                 "turns")

    def __init__(self, fleet: "Fleet", host: Host,
                 on_loss: "Callable[[pyvirhost.Connection], object] | None") -> None:
        self.fleet = fleet
        self.host = host
        self.link = Link(host, on_loss)
        self.turns: list[Turn] = []
        # The thread that serves the host, and its current turn.
        self.thread: int | None = None
        self.current: Turn | None = None
        # The turn was given up, but the thread has not come back.
        self.hangs = False
        self.is_queued = False
        self.leaves = False

    def __call__(self) -> None:
        """Ask the next question, in a worker."""
        self.fleet.serve(self)

    def refuse(self, error: Exception) -> None:
        """Give up all questions, since no thread can be started for them."""
        self.is_queued = False
        for turn in tuple(self.turns):
            self.fleet.give_up(self, turn, error)


class Fleet:
    """Ask many hosts at once, from many threads, and carry on when some of them hang.

    ``with`` closes the connections on exit.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str or Host
        URIs by name, URIs that also serve as names, or `Host` objects. It may be empty.
    workers : int, optional
        How many hosts to ask at a time, at most. By default up to 256, each in a thread that is
        started when hosts have to wait, and ends when it is not needed any more.
    max_connects : int, optional
        How many of these may be hosts that must be connected first. By default half of the
        `workers`, so that hosts that are gone leave room for the others.
    patience : float, optional
        Seconds after which a host that has not answered no longer counts towards these limits. By
        default it counts until its timeout.
    keeps : bool, default True
        Whether connections stay open for the next question.
    on_loss : callable, optional
        Called with the name of a host whose connection was lost, and the connection, in the thread
        of close callbacks.
    on_close : callable, optional
        Called in a thread of the fleet when it stops taking questions.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument is invalid; the message names it.

    Notes
    -----
    Any thread may call any method. After a fork, the child can't use a fleet that was used before.

    Examples
    --------
    >>> with pyvirhost.Fleet({"one": "test:///default"}) as fleet:
    ...     for answer in fleet.ask(pyvirhost.Connection.node_info, timeout=5):
    ...         print(answer.host.name, answer.result.cpus)
    one 16
    """

    def __init__(
        self,
        hosts: Hosts = (),
        *,
        workers: int | None = None,
        max_connects: int | None = None,
        patience: float | None = None,
        keeps: bool = True,
        on_loss: "Callable[[str, pyvirhost.Connection], object] | None" = None,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        if workers is None:
            workers = MOST_WORKERS
        check_number(workers, "workers")
        if max_connects is None:
            max_connects = (workers + 1) // 2
        check_number(max_connects, "max_connects")
        patience = math.inf if patience is None else checked_seconds(patience, "patience")
        self.clock = Clock(self._abandon, self._hand_over)
        self._workers = Workers(workers, max_connects, patience, self.clock)
        self._keeps = keeps
        self._on_loss = on_loss
        self._on_close = on_close
        self.members = {name: self._new_member(host)
                         for name, host in hosts_by_name(hosts).items()}
        # The hosts as a caller gets them, if one has asked since they changed.
        self._known: list[Mapping[str, Host]] = []
        # Those that were removed while a worker had them, by name.
        self._leaving: dict[str, Member] = {}
        # What is to be handed over, and how, when the thread that got it has nothing else to do.
        self._outbox: list[tuple[Callable[[Any], object], Any]] = []
        self.is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<Fleet of {len(self.members)} hosts, {state}>"

    # ---- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the clock, as `ask` does by itself; do nothing if it is running.

        Raises
        ------
        RuntimeError
            The fleet was closed or belongs to another process, or no thread can be started.
        """
        self.check()
        self.clock.start()

    def close(self) -> None:
        """Close all connections, within a second even if hosts hang. Calling it again does nothing.

        Questions still open are answered with an error. A thread that waits for a host ends when
        its call returns.
        """
        if self.clock.elsewhere:
            return
        self.is_closed = True
        if self.clock.started:
            self.clock.request(self._close)
            self.clock.wait(2 * _FAREWELL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check(self, called: str = "fleet") -> None:
        """Raise if it was closed, or belongs to another process."""
        self.check_process(called)
        if self.is_closed:
            raise RuntimeError(f"this {called} was stopped; make a new one")

    def check_process(self, called: str = "fleet") -> None:
        """Raise if its threads are in another process."""
        if self.clock.elsewhere:
            raise RuntimeError(f"this {called} runs in the process that this one was forked from; "
                               "make a new one here")

    # ---- hosts ----------------------------------------------------------------------------------

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts by name, as they are now: read-only mapping of str to `Host`.

        It does not change when hosts are added and removed, and is made anew only after that.
        """
        self.check_process()
        known = self._known  # whoever changes the hosts puts another list there
        if not known:
            known.append(MappingProxyType(
                {name: member.host for name, member in self.members.copy().items()}))
        return known[0]

    def add(self, *hosts: Host | str) -> None:
        """Add hosts, or hosts given by their URIs: all, or none if one is invalid.

        Raises
        ------
        TypeError, ValueError
            One is invalid, or there is already a host of that name.
        RuntimeError
            The fleet was closed.
        """
        new = hosts_by_name(hosts)
        self.start()
        self.clock.do(partial(self.enter, new))

    def remove(self, *names: str) -> None:
        """Remove hosts and close their connections; no answer from them comes after this.

        Raises
        ------
        KeyError
            There is no host of one of the names; none is removed.
        RuntimeError
            The fleet was closed.
        """
        self.start()
        self.clock.do(partial(self.leave, names))

    def enter(self, hosts: dict[str, Host]) -> list[Member]:
        """Add hosts and return their members. The caller holds the lock."""
        for name in hosts:
            if name in self.members:
                raise ValueError(f"there is already a host {name!r}")
        entered = []
        for name, host in hosts.items():
            # A host that hangs keeps hanging: adding it again must not give it a second thread.
            member = self._leaving.pop(name, None)
            if member is None or member.host != host:
                member = self._new_member(host)
            member.leaves = False
            self.members[name] = member
            entered.append(member)
        self._known = []
        return entered

    def leave(self, names: Iterable[str]) -> None:
        """Remove hosts. The caller holds the lock."""
        names = dict.fromkeys(names)
        for name in names:
            if name not in self.members:
                raise KeyError(f"there is no host {name!r}")
        for name in names:
            member = self.members.pop(name)
            for turn in (*member.turns, member.current):
                if turn is not None:
                    self._end(turn, None)
            member.turns.clear()
            self._let_go(member)
            if member.is_queued or member.thread is not None:
                self._leaving[name] = member
        self._known = []

    def _new_member(self, host: Host) -> Member:
        return Member(self, host, self._on_loss and partial(self._on_loss, host.name))

    def _let_go(self, member: Member) -> None:
        member.leaves = True
        if member.link.connection is not None:
            self._queue(member)

    # ---- questions ------------------------------------------------------------------------------

    def ask(
        self, question: Question[T], hosts: Iterable[str] | None = None, *,
        timeout: float | None = None,
    ) -> Iterator[Answer[T]]:
        """Ask hosts a question, all at once, and return their answers as they come.

        Parameters
        ----------
        question : callable
            Called with each host's `Connection`, in threads of the fleet.
        hosts : iterable of str, optional
            The names of the hosts to ask; by default all.
        timeout : float, optional
            Seconds from now. A host that has not answered by then, or within its `Host`'s own
            timeout, has an `OperationTimeoutError`.

        Returns
        -------
        iterator of Answer
            One answer from each host. Whatever the question raises is that host's answer.

        Raises
        ------
        KeyError
            There is no such host.
        TypeError, ValueError
            An argument is invalid.
        RuntimeError
            The fleet was closed.
        """
        if not callable(question):
            raise TypeError(f"question must be callable, not {type(question).__name__}")
        if isinstance(hosts, str):
            raise TypeError("hosts must be an iterable of names, not a str")
        names = None if hosts is None else list(hosts)
        deadline = math.inf if timeout is None else (
            time.monotonic() + checked_seconds(timeout, "timeout"))
        answers: SimpleQueue[Answer[T]] = SimpleQueue()
        self.start()
        deliver = partial(self.send, answers.put)
        count = self.clock.do(partial(self._ask_each, question, names, deadline, deliver))
        return (answers.get() for _ in range(count))

    def _ask_each(self, question: Question[Any], names: list[str] | None, deadline: float,
                  deliver: Callable[[Answer[Any]], object]) -> int:
        members = self.members
        if names is not None:
            for name in names:
                if name not in members:
                    raise KeyError(f"there is no host {name!r}")
        asked = [(member, Turn(question, deliver)) for member in (
            list(members.values()) if names is None else map(members.__getitem__, names))]
        self.put(asked, deadline)
        return len(asked)

    def put(self, asked: list[tuple[Member, Turn]], deadline: float) -> None:
        """Put a question to each of some hosts, until a time. The caller holds the lock."""
        limit = None if deadline == math.inf or not asked else Limit(
            len(asked), self.clock.at(deadline, partial(self._expire_all, asked)))
        for member, turn in asked:
            turn.deadline, turn.limit = deadline, limit
            if member.hangs or self.is_closed:
                self.give_up(member, turn)
            else:
                member.turns.append(turn)
                self._queue(member)

    def _queue(self, member: Member) -> None:
        # One that is queued or has a thread is already taken care of.
        if not member.is_queued and member.thread is None:
            member.is_queued = True
            self._workers.do(member, connects=member.link.connection is None)

    def send(self, put: Callable[[Any], object], what: Any) -> None:
        """Call `put` with something, within ten milliseconds. The caller holds the lock.

        It wakes whoever waits for that, so threads do it when they have nothing else to do.
        """
        self._outbox.append((put, what))

    def _hand_over(self) -> None:
        outbox, self._outbox = self._outbox, []
        for put, what in outbox:
            put(what)

    # ---- what a worker does ---------------------------------------------------------------------

    def serve(self, member: Member) -> None:
        """Ask a host the first waiting question, and close its connection if it leaves."""
        with self.clock.lock:
            turn = self._begin(member)
        answer = None if turn is None else self._ask(member, turn)
        with self.clock.lock:
            if turn is not None and answer is not None:
                self._take(member, turn, answer)
            closes = member.leaves or not self._keeps
            if closes:
                self._hand_over()  # closing may take long
            else:
                self._set_free(member)
        while closes:
            member.link.close()
            with self.clock.lock:
                # It may have been removed since.
                closes = member.leaves and member.link.connection is not None
                if not closes:
                    self._set_free(member)

    def _set_free(self, member: Member) -> None:
        member.thread = None
        if member.turns:
            self._queue(member)
        elif member.leaves and self._leaving.get(member.host.name) is member:
            del self._leaving[member.host.name]

    def _begin(self, member: Member) -> Turn | None:
        member.is_queued = False
        member.thread = get_ident()
        if not member.turns:
            return None
        member.current = turn = member.turns.pop(0)
        turn.began, turn.started_at = time.monotonic(), time.time()
        own = turn.began + (member.host.timeout or math.inf)
        if own < turn.deadline:
            turn.alarm = self.clock.at(own, partial(self._expire, member, turn))
        return turn

    def _ask(self, member: Member, turn: Turn) -> Answer[Any]:
        try:
            return member.link.ask(turn.question)
        except BaseException as error:  # sys.exit() must not end this thread: other hosts wait
            return Answer(member.host, None, without_frames(error),
                          member.link.connection is not None, turn.started_at,
                          time.monotonic() - turn.began)

    def _take(self, member: Member, turn: Turn, answer: Answer[Any]) -> None:
        member.current = None
        member.hangs = False
        if not turn.is_over:
            self._end(turn, answer)
        elif turn.came_late is not None:
            turn.came_late(answer)

    # ---- how a question ends --------------------------------------------------------------------

    def _end(self, turn: Turn, answer: Answer[Any] | None) -> None:
        # Only the first end counts.
        if turn.is_over:
            return
        turn.is_over = True
        self.clock.call_off(turn.alarm)
        limit = turn.limit
        if limit is not None:
            limit.turns_left -= 1
            if not limit.turns_left:
                self.clock.call_off(limit.alarm)
        if answer is not None:
            turn.deliver(answer)

    def _expire_all(self, asked: list[tuple[Member, Turn]]) -> None:
        for member, turn in asked:
            if not turn.is_over:
                self._expire(member, turn)

    def _expire(self, member: Member, turn: Turn) -> None:
        if turn is member.current:
            member.hangs = True
            assert member.thread is not None
            self._workers.set_aside(member.thread)
        self.give_up(member, turn)
        if member.hangs:
            for other in tuple(member.turns):
                self.give_up(member, other)

    def give_up(self, member: Member, turn: Turn, error: Exception | None = None) -> None:
        """End a question without the host's answer. The caller holds the lock."""
        with suppress(ValueError):
            member.turns.remove(turn)
        asked = member.current if member.hangs and member.current is not None else turn
        began, started_at = (asked.asked, asked.asked_at) if asked.began == math.inf else (
            asked.began, asked.started_at)
        duration = time.monotonic() - began
        if error is None:
            error = RuntimeError("the fleet was closed") if self.is_closed else (
                no_answer(duration, started_at) if asked.began < math.inf else
                self._not_asked(member, duration))
        self._end(turn, Answer(member.host, None, error, member.link.connection is not None,
                               started_at, duration))

    def _not_asked(self, member: Member, duration: float) -> Exception:
        workers = self._workers
        connects = member.link.connection is None and not workers.has_room and (
            workers.connects < workers.limit)
        if workers.problem is not None:
            why = (f"all {workers.count} workers are busy and another could not be started: "
                   f"{workers.problem}")
        else:
            why = (f"all {workers.connects} connects" if connects else
                   f"all {workers.limit} workers") + " are busy"
        return timeout_error(f"not asked for {duration:.1f} s, since {why}")

    # ---- the end --------------------------------------------------------------------------------

    def _close(self) -> None:
        self._abandon()
        for member in self.members.values():
            self._let_go(member)
        self._workers.end()
        self.clock.end(time.monotonic() + _FAREWELL, self._is_deserted)

    def _is_deserted(self) -> bool:
        return self._workers.count == 0

    def _abandon(self) -> None:
        # Nobody may be left waiting for an answer that will not come.
        self.is_closed = True
        for member in self.members.values():
            for turn in (*member.turns, member.current):
                if turn is not None:
                    self.give_up(member, turn)
        if self._on_close is not None:
            self._on_close()


# ---- errors -------------------------------------------------------------------------------------

def no_answer(duration: float, since: float) -> Exception:
    """Return the error of a host that has not answered for `duration` seconds, since a time."""
    when = datetime.fromtimestamp(since).astimezone()
    return timeout_error(f"no answer for {duration:.1f} s, since {when:%Y-%m-%d %H:%M:%S%z}")


def timeout_error(message: str) -> Exception:
    """Return the error of a host that timed out."""
    return pyvirhost.OperationTimeoutError(
        message, code=pyvirhost.ErrorCode.OPERATION_TIMEOUT)

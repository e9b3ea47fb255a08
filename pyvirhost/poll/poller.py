"""Many hosts, each read once per interval: a fleet, and the schedule by which it is asked."""

import math
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, overload

from pyvirhost.poll import descriptors
from pyvirhost.poll.arguments import LEAST_SECONDS, checked_seconds
from pyvirhost.poll.fleet import Fleet, Member, Turn
from pyvirhost.poll.host import Host, Hosts, hosts_by_name
from pyvirhost.poll.link import Answer
from pyvirhost.poll.sample import Reading, Sample

if TYPE_CHECKING:
    import pyvirhost
    from pyvirhost.poll.clock import Alarm

# A host that takes longer than this fraction of the interval gives up its place among the workers.
_PATIENCE = 1 / 20
# The first attempt to reconnect comes after this fraction of the interval, or after a second.
_FIRST_RETRY = 1 / 32
# The interval is divided into so many slots. The hosts of a slot are read together: to wake up a
# thread costs more processor time than a reading does.
_SLOTS = 100
# However many multiples of it are taken modulo 1, they lie evenly between 0 and 1.
_GOLDEN_RATIO = 0.6180339887498949
# How many samples per host are kept until taken, and how many at least in all.
_UNREAD_EACH, _UNREAD_LEAST = 4, 64


class _Slot:
    """A moment of each interval, and the hosts that are read then."""

    __slots__ = ("alarm", "next_at", "number", "polled")

    def __init__(self, number: int, next_at: float) -> None:
        self.number = number
        # By the monotonic clock.
        self.next_at = next_at
        self.alarm: Alarm | None = None
        self.polled: dict[_Polled, None] = {}


class _Polled:
    """A host while it is polled: its turns and their results."""

    __slots__ = ("earlier", "earlier_over", "failures", "is_removed", "is_retry", "latest",
                 "member", "next_retry", "overruns", "poller", "slot", "turn")

    def __init__(self, poller: "Poller", member: Member) -> None:
        self.poller = poller
        self.member = member
        self.is_removed = False
        self.slot: _Slot | None = None
        self.next_retry: Alarm | None = None
        self.turn: Turn | None = None
        # If so, no sample is published if this turn fails.
        self.is_retry = False
        self.failures = 0
        self.overruns = 0
        # The last sample, and when it began by the monotonic clock.
        self.latest: tuple[Sample, float] | None = None
        # The last snapshot, and the connection over which it was read.
        self.earlier: pyvirhost.HostSnapshot | None = None
        self.earlier_over: pyvirhost.Connection | None = None

    @property
    def is_asked(self) -> bool:
        """Whether it is being asked: it has not answered and was not given up."""
        return self.turn is not None and not self.turn.is_over

    def new_turn(self, *, is_retry: bool = False) -> Turn:
        """Return its next turn."""
        self.is_retry = is_retry
        self.turn = turn = Turn(self.read, self.take, self.take_late)
        return turn

    def read(
        self, connection: "pyvirhost.Connection"
    ) -> "tuple[pyvirhost.HostSnapshot, pyvirhost.HostRates | None]":
        """Read the host, in a worker. Rates over a gap might span a reboot."""
        snapshot = self.poller.reading(connection)
        earlier = self.earlier if self.earlier_over is connection else None
        return snapshot, snapshot.rates(earlier)

    def take(self, answer: Answer[Any]) -> None:
        """Take the result of a turn. The caller holds the lock."""
        if self.is_removed or self.member.fleet.is_closed:
            return
        snapshot, rates = answer.result or (None, None)
        sample = Sample(answer.host.name, snapshot, rates, answer.error, answer.started_at,
                        answer.duration)
        hangs = self.member.hangs
        if not (sample.error is not None and self.is_retry) or hangs:
            self.latest = sample, time.monotonic() - sample.duration
            self.poller.publish(self, sample)
        if sample.error is None:
            self.failures = 0
            self.earlier, self.earlier_over = snapshot, self.member.link.connection
        elif not hangs:
            self.poller.ask_later(self)

    def take_late(self, answer: Answer[Any]) -> None:
        """Take a result that is too old, but shows that the host is back."""
        if self.is_removed or self.member.fleet.is_closed:
            return
        if answer.error is not None:
            self.poller.ask_later(self)
        elif not self.is_asked:
            self.poller.ask(self)


class Poller:
    """Read many hosts once per interval, from many threads, and carry on when some of them hang.

    Iterating starts the poller and yields each `Sample` as it comes; ``with`` starts and stops it.
    The hosts' turns are spread over the interval. A host that hangs delays no other host.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str or Host
        URIs by name, URIs that also serve as names, or `Host` objects. It may be empty.
    interval : float, default 5.0
        In seconds, at least 0.001.
    timeout : float, optional
        Seconds after which a host's sample is an `OperationTimeoutError`, unless its `Host` has its
        own timeout; by default the interval. A host that still does not answer is left alone until
        it does: each interval gives another error, which says since when.
    fields : iterable of str, default PRIORITY_FIELDS
        What to read, as in `Connection.snapshot`.
    page_sizes : iterable of int, optional
        In KiB, as in `Connection.snapshot`.
    workers : int, optional
        How many hosts to read at a time, at most. By default up to 256, each in a thread that is
        started when hosts have to wait, and ends when it is not needed any more. A host that takes
        longer than a twentieth of the interval no longer counts.
    max_connects : int, optional
        How many of these may be hosts that must be connected first. By default half of the
        `workers`, so that hosts that are gone leave room for the others.
    raise_descriptor_limit : bool, default False
        Whether starting raises this process's soft limit of file descriptors to its hard limit, so
        that more hosts fit. Programs that call ``select`` can't handle so many.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument is invalid; the message names it.

    Notes
    -----
    A host that could not be read is asked again: soon, then after ever longer waits, and in any
    case at its turn in each interval, over a new connection if the old one has died. So a host
    whose daemon was restarted is back within one interval.

    Keepalive begins with the connection. A host whose power fails while it is being connected over
    TCP is left alone until the system gives up that connection, and TCP may never do so.

    Any thread may call any method, and so may a signal handler. After a fork, the child can't use a
    running poller; it can start one that was not started before.

    Examples
    --------
    >>> with pyvirhost.Poller({"one": "test:///default"}, interval=0.1) as poller:
    ...     for sample in poller:
    ...         print(sample.host, sample.snapshot.node_info.cpus)
    ...         break
    one 16
    """

    def __init__(
        self,
        hosts: Hosts,
        *,
        interval: float = 5.0,
        timeout: float | None = None,
        fields: Iterable[str] | None = None,
        page_sizes: Iterable[int] | None = None,
        workers: int | None = None,
        max_connects: int | None = None,
        raise_descriptor_limit: bool = False,
    ) -> None:
        if not isinstance(raise_descriptor_limit, bool):
            raise TypeError("raise_descriptor_limit must be a bool, not "
                            f"{type(raise_descriptor_limit).__name__}")
        self._raises_limit = raise_descriptor_limit
        self._interval = checked_seconds(interval, "interval")
        self._timeout = self._interval if timeout is None else checked_seconds(timeout, "timeout")
        self.reading = Reading(fields, page_sizes)
        patience = min(self._interval, self._timeout) * _PATIENCE
        self._fleet = Fleet(hosts, workers=workers, max_connects=max_connects,
                            patience=max(patience, LEAST_SECONDS),
                            on_loss=self._lost, on_close=self._end_iterations)
        self._polled = {name: _Polled(self, member) for name, member in self._fleet.members.items()}
        # Waiting for these needs no lock, and can be interrupted by a signal at any moment.
        self._unread: SimpleQueue[tuple[_Polled, Sample] | None] = SimpleQueue()
        # Shorter slots than this are as good as none.
        self._slots: list[_Slot | None] = [None] * max(
            1, min(_SLOTS, int(self._interval / LEAST_SECONDS)))
        self._spread = 0
        self._began = 0.0
        self._dropped = 0
        self._is_running = False

    def __repr__(self) -> str:
        state = ("stopped" if self._fleet.is_closed else
                 "running" if self._is_running else "not started")
        return f"<Poller of {len(self._polled)} hosts every {self._interval:g} s, {state}>"

    # ---- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start polling; do nothing if it is running.

        Raises
        ------
        RuntimeError
            It was stopped, or runs in the process that this one was forked from, or no thread can
            be started.
        """
        self._fleet.check("poller")
        if not self._is_running:
            if self._raises_limit:
                descriptors.raise_descriptor_limit()
            self._fleet.clock.start()
            self._fleet.clock.do(self._begin)

    def stop(self) -> None:
        """Stop polling, within a second even if hosts hang; do nothing if it is stopped.

        Iterations end, connections are closed, and `latest` stays available. A thread that waits
        for a host ends when its call returns.
        """
        self._fleet.close()
        self._end_iterations()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _begin(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._began = time.monotonic()
            self._give_slots(list(self._polled.values()))

    def _end_iterations(self) -> None:
        self._unread.put(None)

    # ---- hosts ----------------------------------------------------------------------------------

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts by name, as they are now: read-only mapping of str to `Host`.

        It does not change when hosts are added and removed, and is made anew only after that.
        """
        self._fleet.check_process("poller")
        return self._fleet.hosts

    def add(self, *hosts: Host | str) -> None:
        """Add hosts, or hosts given by their URIs, and poll them from the next interval on.

        Raises
        ------
        TypeError, ValueError
            One is invalid, or there is already a host of that name; none is added.
        RuntimeError
            The poller was stopped.
        """
        new = hosts_by_name(hosts)
        self._fleet.check("poller")
        if self._is_running:
            self._fleet.clock.do(lambda: self._give_slots(self._enter(new)))
            return
        polled = self._enter(new)
        if self._is_running:  # started meanwhile by another thread
            self._fleet.clock.do(partial(self._give_slots, polled))

    def remove(self, *names: str) -> None:
        """Stop polling hosts; no sample from them comes after this.

        Raises
        ------
        KeyError
            There is no host of one of the names; none is removed.
        RuntimeError
            The poller was stopped.
        """
        self._fleet.check("poller")
        if self._is_running:
            self._fleet.clock.do(partial(self._leave, names))
        else:
            self._leave(names)

    def _enter(self, hosts: dict[str, Host]) -> list[_Polled]:
        entered = [_Polled(self, member) for member in self._fleet.enter(hosts)]
        for polled in entered:
            self._polled[polled.member.host.name] = polled
        return entered

    def _leave(self, names: Iterable[str]) -> None:
        names = dict.fromkeys(names)
        self._fleet.leave(names)
        for name in names:
            polled = self._polled.pop(name)
            polled.is_removed = True
            self._fleet.clock.call_off(polled.next_retry)
            self._leave_slot(polled)

    def _now(self) -> dict[str, _Polled]:
        self._fleet.check_process("poller")
        return self._polled.copy()

    # ---- samples --------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        self.start()
        return self

    def __next__(self) -> Sample:
        """Wait for the next sample, until the poller is stopped."""
        self._fleet.check_process("poller")
        while not self._fleet.is_closed:
            entry = self._unread.get()
            if entry is None:
                self._unread.put(None)  # for other threads that iterate
                break
            polled, sample = entry
            if not polled.is_removed:
                return sample
        raise StopIteration

    @overload
    def latest(self, name: None = None) -> dict[str, tuple[Sample, float]]: ...

    @overload
    def latest(self, name: str) -> tuple[Sample, float] | None: ...

    def latest(
        self, name: str | None = None
    ) -> dict[str, tuple[Sample, float]] | tuple[Sample, float] | None:
        """Return each host's last sample and its age: seconds since its reading began.

        Parameters
        ----------
        name : str, optional
            The only host to return them of; by default all.

        Returns
        -------
        dict of str to (Sample, float), or (Sample, float)
            By name, without hosts that have no sample yet. With a `name` only its own, or None if
            it has no sample yet.

        Raises
        ------
        KeyError
            There is no host of that name.
        """
        now = time.monotonic()
        if name is not None:
            self._fleet.check_process("poller")
            polled = self._polled.get(name)
            if polled is None:
                raise KeyError(f"there is no host {name!r}")
            latest = polled.latest
            return latest and (latest[0], now - latest[1])
        found = {name: polled.latest for name, polled in self._now().items()}
        return {name: (latest[0], now - latest[1])
                for name, latest in found.items() if latest is not None}

    @property
    def overruns(self) -> dict[str, int]:
        """How often each host's turn was skipped because it was still being read: dict by name."""
        return {name: polled.overruns for name, polled in self._now().items()}

    @property
    def dropped(self) -> int:
        """How many samples were dropped, the oldest first, because nobody took them: int.

        Four per host are kept until taken, and at least 64 in all.
        """
        return self._dropped

    def publish(self, polled: _Polled, sample: Sample) -> None:
        """Give a sample to whoever iterates. The caller holds the lock."""
        self._fleet.send(self._hand_over, (polled, sample))

    def _hand_over(self, unread: tuple[_Polled, Sample]) -> None:
        room = max(_UNREAD_LEAST, _UNREAD_EACH * len(self._polled))
        while self._unread.qsize() >= room:
            with suppress(Empty):  # somebody took the last one
                self._unread.get_nowait()
                self._dropped += 1
        self._unread.put(unread)

    # ---- turns, all under the clock's lock ------------------------------------------------------

    def _give_slots(self, new: list[_Polled]) -> None:
        for polled in new:
            if polled.slot is None and not polled.is_removed:
                self._spread += 1
                number = int(self._spread * _GOLDEN_RATIO % 1 * len(self._slots))
                polled.slot = self._slots[number] or self._new_slot(number)
                polled.slot.polled[polled] = None

    def _new_slot(self, number: int) -> _Slot:
        first_at = self._began + number / len(self._slots) * self._interval
        missed = max(0, math.ceil((time.monotonic() - first_at) / self._interval))
        self._slots[number] = slot = _Slot(number, first_at + missed * self._interval)
        self._await_slot(slot)
        return slot

    def _leave_slot(self, polled: _Polled) -> None:
        slot = polled.slot
        if slot is not None:
            del slot.polled[polled]
            if not slot.polled:
                self._slots[slot.number] = None
                self._fleet.clock.call_off(slot.alarm)

    def _await_slot(self, slot: _Slot) -> None:
        slot.alarm = self._fleet.clock.at(slot.next_at, partial(self._take_turns, slot))

    def _take_turns(self, slot: _Slot) -> None:
        now = time.monotonic()
        missed = int((now - slot.next_at) // self._interval)
        slot.next_at += (missed + 1) * self._interval
        self._await_slot(slot)
        asked = []
        for polled in list(slot.polled):
            polled.overruns += missed
            if polled.is_asked:
                polled.overruns += 1
            elif polled.member.host.timeout is not None:
                self.ask(polled)
            else:
                asked.append((polled.member, polled.new_turn()))
        self._fleet.put(asked, now + self._timeout)

    def ask(self, polled: _Polled, *, is_retry: bool = False) -> None:
        """Ask a host now. The caller holds the lock."""
        timeout = polled.member.host.timeout or self._timeout
        self._fleet.put([(polled.member, polled.new_turn(is_retry=is_retry))],
                        time.monotonic() + timeout)

    def _ask_again(self, polled: _Polled) -> None:
        if not polled.is_asked:
            self.ask(polled, is_retry=True)

    def ask_later(self, polled: _Polled) -> None:
        """Ask a host that failed again before its next turn. The caller holds the lock."""
        # The waits double until the host's next turn comes sooner.
        delay = min(self._interval * _FIRST_RETRY, 1.0) * 2.0 ** min(polled.failures, 64)
        polled.failures += 1
        when = time.monotonic() + delay * random.uniform(0.5, 1)
        self._fleet.clock.call_off(polled.next_retry)
        polled.next_retry = None if polled.slot is None or when >= polled.slot.next_at else (
            self._fleet.clock.at(when, partial(self._ask_again, polled)))

    def _lost(self, name: str, connection: "pyvirhost.Connection") -> None:
        # In the thread of close callbacks.
        self._fleet.clock.request(partial(self._ask_lost, name, connection))

    def _ask_lost(self, name: str, connection: "pyvirhost.Connection") -> None:
        # If a question noticed the loss, its answer says so, and the next attempt should not come
        # at once. Otherwise nobody would know before the next turn.
        polled = self._polled.get(name)
        if polled is not None and not polled.is_asked and not self._fleet.is_closed and (
                polled.member.link.connection is connection):
            self.ask(polled)

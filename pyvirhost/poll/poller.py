"""Many hosts, each read once per interval: a fleet, and the schedule by which it is asked."""

import random
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from pyvirhost.poll.arguments import LEAST_SECONDS, checked_seconds
from pyvirhost.poll.fleet import MAX_CONNECTS, WORKERS, Fleet, Member, Turn
from pyvirhost.poll.host import Host, Hosts, host_of
from pyvirhost.poll.link import Answer
from pyvirhost.poll.sample import Reading, Sample

if TYPE_CHECKING:
    import pyvirhost
    from pyvirhost.poll.clock import Alarm

# A host that takes longer than this fraction of the interval gives up its place among the workers.
_PATIENCE = 1 / 20
# The first attempt to reconnect comes after this fraction of the interval, or after a second.
_FIRST_RETRY = 1 / 32
# However many multiples of it are taken modulo 1, they lie evenly between 0 and 1.
_GOLDEN_RATIO = 0.6180339887498949
# How many samples per host are kept until taken, and how many at least in all.
_UNREAD_EACH, _UNREAD_LEAST = 4, 64


class _Polled:
    """A host while it is polled: its turns and their results."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.is_removed = False
        # When its next turn is, by the monotonic clock.
        self.slot = 0.0
        self.next_turn: Alarm | None = None
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
    workers : int, default 32
        How many hosts to read at a time. A host that takes longer than a twentieth of the interval
        no longer counts.
    max_connects : int or None, default 16
        How many more hosts to connect at a time, counted in the same way. With None they count
        among the `workers`. A libvirt daemon accepts up to 20 clients that have not authenticated
        yet.

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
        workers: int = WORKERS,
        max_connects: int | None = MAX_CONNECTS,
    ) -> None:
        self._interval = checked_seconds(interval, "interval")
        self._timeout = self._interval if timeout is None else checked_seconds(timeout, "timeout")
        self._reading = Reading(fields, page_sizes)
        patience = min(self._interval, self._timeout) * _PATIENCE
        self._fleet = Fleet(hosts, workers=workers, max_connects=max_connects,
                            patience=max(patience, LEAST_SECONDS),
                            on_loss=self._lost, on_close=self._end_iterations)
        self._polled = {name: _Polled(member) for name, member in self._fleet.members.items()}
        # Waiting for these needs no lock, and can be interrupted by a signal at any moment.
        self._unread: SimpleQueue[tuple[_Polled, Sample] | None] = SimpleQueue()
        self._spread = 0
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
            for polled in list(self._polled.values()):
                self._give_slots(polled)

    def _end_iterations(self) -> None:
        self._unread.put(None)

    # ---- hosts ----------------------------------------------------------------------------------

    @property
    def hosts(self) -> dict[str, Host]:
        """The hosts by name: dict of str to `Host`, a copy."""
        return {name: polled.member.host for name, polled in self._now().items()}

    def add(self, host: Host | str) -> None:
        """Add a host, or one given by its URI, and poll it from the next interval on.

        Raises
        ------
        TypeError, ValueError
            It is invalid, or there is already a host of that name.
        RuntimeError
            The poller was stopped.
        """
        host = host_of(host)
        self._fleet.check("poller")
        if self._is_running:
            self._fleet.clock.do(lambda: self._give_slots(self._enter(host)))
            return
        polled = self._enter(host)
        if self._is_running:  # started meanwhile by another thread
            self._fleet.clock.do(partial(self._give_slots, polled))

    def remove(self, name: str) -> None:
        """Stop polling a host; no sample from it comes after this.

        Raises
        ------
        KeyError
            There is no such host.
        RuntimeError
            The poller was stopped.
        """
        self._fleet.check("poller")
        if self._is_running:
            self._fleet.clock.do(partial(self._leave, name))
        else:
            self._leave(name)

    def _enter(self, host: Host) -> _Polled:
        self._polled[host.name] = polled = _Polled(self._fleet.enter(host))
        return polled

    def _leave(self, name: str) -> None:
        self._fleet.leave(name)
        polled = self._polled.pop(name)
        polled.is_removed = True
        for alarm in (polled.next_turn, polled.next_retry):
            self._fleet.clock.call_off(alarm)

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

    def latest(self) -> dict[str, tuple[Sample, float]]:
        """Return each host's last sample and its age: seconds since its reading began.

        Returns
        -------
        dict of str to (Sample, float)
            By name, without hosts that have no sample yet.
        """
        now = time.monotonic()
        latest = {name: polled.latest for name, polled in self._now().items()}
        return {name: (found[0], now - found[1])
                for name, found in latest.items() if found is not None}

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

    def _publish(self, polled: _Polled, sample: Sample) -> None:
        polled.latest = sample, time.monotonic() - sample.duration
        room = max(_UNREAD_LEAST, _UNREAD_EACH * len(self._polled))
        while self._unread.qsize() >= room:
            with suppress(Empty):  # somebody took the last one
                self._unread.get_nowait()
                self._dropped += 1
        self._unread.put((polled, sample))

    # ---- turns, all under the clock's lock ------------------------------------------------------

    def _give_slots(self, polled: _Polled) -> None:
        if polled.next_turn is None and not polled.is_removed:
            self._spread += 1
            offset = self._spread * _GOLDEN_RATIO % 1 * self._interval
            polled.slot = time.monotonic() + offset
            self._await_turn(polled)

    def _await_turn(self, polled: _Polled) -> None:
        polled.next_turn = self._fleet.clock.at(polled.slot, partial(self._take_turn, polled))

    def _take_turn(self, polled: _Polled) -> None:
        missed = int((time.monotonic() - polled.slot) // self._interval)
        polled.slot += (missed + 1) * self._interval
        self._await_turn(polled)
        polled.overruns += missed
        if polled.is_asked:
            polled.overruns += 1
        else:
            self._ask(polled)

    def _ask(self, polled: _Polled, *, is_retry: bool = False) -> None:
        timeout = polled.member.host.timeout or self._timeout
        polled.is_retry = is_retry
        polled.turn = turn = Turn(
            partial(self._read, polled), time.monotonic() + timeout,
            partial(self._take, polled), partial(self._take_late, polled))
        self._fleet.put(polled.member, turn)

    def _ask_again(self, polled: _Polled) -> None:
        if not polled.is_asked:
            self._ask(polled, is_retry=True)

    def _ask_later(self, polled: _Polled) -> None:
        # The waits double until the host's next turn comes sooner.
        delay = min(self._interval * _FIRST_RETRY, 1.0) * 2.0 ** min(polled.failures, 64)
        polled.failures += 1
        when = time.monotonic() + delay * random.uniform(0.5, 1)
        self._fleet.clock.call_off(polled.next_retry)
        polled.next_retry = None if when >= polled.slot else (
            self._fleet.clock.at(when, partial(self._ask_again, polled)))

    def _lost(self, name: str, connection: "pyvirhost.Connection") -> None:
        # In a thread that libvirt chooses, which may be a caller's.
        self._fleet.clock.request(partial(self._ask_lost, name, connection))

    def _ask_lost(self, name: str, connection: "pyvirhost.Connection") -> None:
        # If a question noticed the loss, its answer says so, and the next attempt should not come
        # at once. Otherwise nobody would know before the next turn.
        polled = self._polled.get(name)
        if polled is not None and not polled.is_asked and not self._fleet.is_closed and (
                polled.member.link.connection is connection):
            self._ask(polled)

    # ---- the result of a turn -------------------------------------------------------------------

    def _read(
        self, polled: _Polled, connection: "pyvirhost.Connection"
    ) -> "tuple[pyvirhost.HostSnapshot, pyvirhost.HostRates | None]":
        # In a worker, without the lock. Rates over a gap might span a reboot.
        snapshot = self._reading(connection)
        earlier = polled.earlier if polled.earlier_over is connection else None
        return snapshot, snapshot.rates(earlier)

    def _take(self, polled: _Polled, answer: Answer[Any]) -> None:
        if polled.is_removed or self._fleet.is_closed:
            return
        snapshot, rates = answer.result or (None, None)
        sample = Sample(answer.host.name, snapshot, rates, answer.error, answer.started_at,
                        answer.duration)
        hangs = polled.member.hangs
        if not (sample.error is not None and polled.is_retry) or hangs:
            self._publish(polled, sample)
        if sample.error is None:
            polled.failures = 0
            polled.earlier, polled.earlier_over = snapshot, polled.member.link.connection
        elif not hangs:
            self._ask_later(polled)

    def _take_late(self, polled: _Polled, answer: Answer[Any]) -> None:
        # The answer is too old, but the host is back.
        if polled.is_removed or self._fleet.is_closed:
            return
        if answer.error is not None:
            self._ask_later(polled)
        elif not polled.is_asked:
            self._ask(polled)

"""Many hosts, each read once an interval, none of which can delay another.

One thread, the clock, says whose turn it is and notices who takes too long. Workers read the hosts:
some those that are connected, others those that have to be connected first, so that hosts that are
gone keep nobody from being read. A host is read by one thread at a time, and while that thread
hangs, by none.
"""

import heapq
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import pyvirhost
from pyvirhost._workers import Workers
from pyvirhost.auth import Authenticator
from pyvirhost.sample import Reader, Sample, checked_settings

# A call that takes longer than this part of the interval gives up its place among the workers.
_PATIENCE = 1 / 20
# The first attempt to connect again comes after this part of the interval, or a second.
_FIRST_RETRY = 1 / 32
# Multiples of it, modulo 1, lie evenly between 0 and 1, however many there are.
_GOLDEN_RATIO = 0.6180339887498949
# How many samples for each host wait to be taken, and how many at the least.
_UNREAD_EACH, _UNREAD_LEAST = 4, 64
# How long to wait, when stopping, for threads that may hang.
_FAREWELL = 0.8


class _Host:
    """A host's connection, what is going on with it, and what came of it."""

    def __init__(self, reader: Reader) -> None:
        self.name = reader.name
        self.reader = reader
        self.removed = False
        # When it is its turn next, by the monotonic clock as all but `started_at`.
        self.slot = 0.0
        self.failures = 0
        # A worker has it, or will: nobody else may touch the reader.
        self.given = False
        # Nobody hears of it if this attempt fails.
        self.retrying = False
        self.began = self.started_at = 0.0
        # Its time is over and the worker has not come back.
        self.overdue = False
        self.overruns = 0
        self.latest: Sample | None = None
        self.latest_began = 0.0


class Poller:
    """Read many hosts once an interval, from many threads, and go on when some of them hang.

    Iterating gives each `Sample` as it comes, and starts the poller; ``with`` starts and stops it.
    The hosts' turns are spread over the interval. A host that hangs costs its own sample only.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str
        The hosts' URIs by name, or URIs that are the names, too. It may be empty.
    interval : float, default 5.0
        In seconds.
    timeout : float, optional
        Seconds after which a host's sample is an `OperationTimeoutError`; by default the interval.
        A host that still does not answer after that is left alone until it does: each interval
        gives another error, which says since when.
    workers : int, default 32
        How many hosts are read at a time. A host that takes longer than a twentieth of the interval
        is no longer counted.
    fields : iterable of str, default PRIORITY
        What to read, as in `Connection.snapshot`.
    keepalive : (int, int), optional
        As in `open`: it frees the calls that wait for a server that is gone.
    readonly : bool, default True
        Whether connections may only read.
    page_sizes : iterable of int, optional
        In KiB, as in `Connection.snapshot`.
    auth : PasswordAuth, DEFAULT_AUTH or callable, optional
        As in `open`; it is called by several threads at a time.
    max_connects : int, default 16
        How many hosts are being connected at a time, counted as `workers` are. A libvirt daemon
        accepts up to 20 clients that have not authenticated themselves yet.

    Raises
    ------
    TypeError, ValueError
        An argument makes no sense; it is named.

    Notes
    -----
    A host that could not be read is connected anew: soon, then after ever longer waits, and in any
    case at its turn in each interval. So a daemon that was restarted is back within one interval.

    Keepalive begins with the connection. A host whose power fails while it is being connected over
    TCP is left alone until the system gives that connection up, and TCP may never.

    Methods may be called by any thread. After a fork, a poller that runs is of no use in the child;
    one that was not started yet can be started there.

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
        hosts: Mapping[str, str] | Iterable[str],
        interval: float = 5.0,
        timeout: float | None = None,
        workers: int = 32,
        fields: Iterable[str] | None = None,
        keepalive: tuple[int, int] | None = (5, 3),
        readonly: bool = True,
        *,
        page_sizes: Iterable[int] | None = None,
        auth: Authenticator | None = None,
        max_connects: int = 16,
    ) -> None:
        self._interval = checked_seconds(interval, "interval")
        self._timeout = self._interval if timeout is None else checked_seconds(timeout, "timeout")
        self._patience = min(self._interval, self._timeout) * _PATIENCE
        self._settings = checked_settings(fields, page_sizes, keepalive, readonly, auth)
        # Reentrant, so that a signal's handler may call stop() at any time.
        self._lock = threading.RLock()
        self._polling = Workers(checked_number(workers, "workers"), self._lock)
        self._connecting = Workers(checked_number(max_connects, "max_connects"), self._lock)
        self._hosts = {name: self._new_host(name, uri)
                       for name, uri in checked_hosts(hosts).items()}
        # Hosts that were removed while a worker had them, by name and URI.
        self._leaving: dict[tuple[str, str], _Host] = {}
        # What is to be done when, and for whom; the number keeps what is due together in order.
        self._due: list[tuple[float, int, Callable[[_Host, float], None], _Host]] = []
        self._numbers = 0
        # The hosts that are being read and not overdue, in the order in which that began.
        self._reading: dict[_Host, None] = {}
        self._spread = 0
        self._dropped = 0
        # Waiting for these needs no lock, and can be interrupted by a signal at any moment.
        self._unread: SimpleQueue[tuple[_Host, Sample] | None] = SimpleQueue()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._asleep_until = 0.0
        self._clock: threading.Thread | None = None
        self._process: int | None = None
        self._stopped = False

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "not started" if self._clock is None else "running"
        return f"<Poller of {len(self._hosts)} hosts every {self._interval:g} s, {state}>"

    # ---- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to poll; where it does already, do nothing.

        Raises
        ------
        RuntimeError
            It was stopped, or runs in the process that this one was forked from.
        """
        self._check_process()
        with self._lock:
            self._check_not_stopped()
            if self._clock is not None:
                return
            clock = threading.Thread(target=self._run, name="pyvirhost-clock", daemon=True)
            clock.start()
            self._clock, self._process = clock, os.getpid()
            for host in self._hosts.values():
                self._give_slots(host)

    def stop(self) -> None:
        """Stop within a second, also when hosts hang; once it is stopped, do nothing.

        Iterations end, connections are closed, `latest` stays. A thread that a host keeps waiting
        ends when its call does.
        """
        if self._process not in (None, os.getpid()):
            return
        self._stopped = True
        self._wake.put(None)
        with self._lock:
            self._unread.put(None)
            threads = {*self._polling.threads, *self._connecting.threads, self._clock}
            for host in self._hosts.values():
                if host.reader.connection is not None and not host.given:
                    self._give(host, self._polling)
            threads |= self._polling.threads
            self._polling.end()
            self._connecting.end()
        deadline = time.monotonic() + _FAREWELL
        for thread in threads - {None, threading.current_thread()}:
            assert thread is not None
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.stop()

    def _check_process(self) -> None:
        if self._process not in (None, os.getpid()):
            raise RuntimeError("this poller runs in the process that this one was forked from; "
                               "make another one here")

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise RuntimeError("this poller was stopped; make another one")

    # ---- hosts ----------------------------------------------------------------------------------

    @property
    def hosts(self) -> dict[str, str]:
        """The hosts' URIs by name: dict of str to str, a copy."""
        self._check_process()
        with self._lock:
            return {name: host.reader.uri for name, host in self._hosts.items()}

    def add(self, name: str, uri: str) -> None:
        """Poll one host more, from the next interval on.

        Raises
        ------
        ValueError
            There is a host of that name.
        RuntimeError
            The poller was stopped.
        """
        check_host(name, uri)
        self._check_process()
        with self._lock:
            self._check_not_stopped()
            if name in self._hosts:
                raise ValueError(f"there is a host {name!r} already")
            # One that hangs goes on hanging: it gets no second thread by being added again.
            host = self._leaving.pop((name, uri), None) or self._new_host(name, uri)
            host.removed = False
            self._hosts[name] = host
            if self._clock is not None:
                self._give_slots(host)

    def remove(self, name: str) -> None:
        """Poll a host no more; no sample of it comes after this.

        Raises
        ------
        KeyError
            There is no such host.
        RuntimeError
            The poller was stopped.
        """
        self._check_process()
        with self._lock:
            self._check_not_stopped()
            if name not in self._hosts:
                raise KeyError(f"there is no host {name!r}")
            host = self._hosts.pop(name)
            host.removed = True
            host.latest = None
            self._due = [due for due in self._due if due[3] is not host]
            heapq.heapify(self._due)
            if self._clock is not None and (host.given or host.reader.connection is not None):
                self._leaving[name, host.reader.uri] = host
                if not host.given:
                    self._give(host, self._polling)

    def _new_host(self, name: str, uri: str) -> _Host:
        return _Host(Reader(name, uri, self._settings))

    # ---- samples --------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        self.start()
        return self

    def __next__(self) -> Sample:
        """Wait for the next sample; when the poller is stopped, there is none."""
        sample = self._next(None)
        if sample is None:
            raise StopIteration
        return sample

    def _next(self, timeout: float | None) -> Sample | None:
        self._check_process()
        while not self._stopped:
            entry = self._unread.get(timeout=timeout)
            if entry is None:
                self._unread.put(None)  # for other threads that iterate
                break
            host, sample = entry
            if not host.removed:
                return sample
        return None

    def latest(self) -> dict[str, tuple[Sample, float]]:
        """Return each host's last sample with its age in seconds, since its reading began.

        Returns
        -------
        dict of str to (Sample, float)
            By name; hosts that have no sample yet are missing.
        """
        self._check_process()
        with self._lock:
            now = time.monotonic()
            return {name: (host.latest, now - host.latest_began)
                    for name, host in self._hosts.items() if host.latest is not None}

    @property
    def overruns(self) -> dict[str, int]:
        """How often each host's turn was skipped, as it was still being read: dict by name."""
        self._check_process()
        with self._lock:
            return {name: host.overruns for name, host in self._hosts.items()}

    @property
    def dropped(self) -> int:
        """How many samples were dropped, the oldest first, as nobody took them: int.

        Four a host wait to be taken, and 64 at the least.
        """
        return self._dropped

    def _publish(self, host: _Host, sample: Sample) -> None:
        if host.removed or self._stopped:
            return
        host.latest, host.latest_began = sample, host.began
        room = max(_UNREAD_LEAST, _UNREAD_EACH * len(self._hosts))
        while self._unread.qsize() >= room:
            with suppress(Empty):  # somebody took the last one
                self._unread.get_nowait()
                self._dropped += 1
        self._unread.put((host, sample))

    # ---- the clock: whose turn it is ------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped:
                with self._lock:
                    now = time.monotonic()
                    pause = self._advance(now)
                    self._asleep_until = now + pause
                with suppress(Empty):
                    self._wake.get(timeout=pause)
        finally:
            with self._lock:
                self._stopped = True
                self._unread.put(None)

    def _advance(self, now: float) -> float:
        # Does what is due and returns for how many seconds nothing will be.
        for workers in (self._polling, self._connecting):
            workers.set_aside(began_before=now - self._patience)
        self._give_up(now)
        while self._due and self._due[0][0] <= now:
            _, _, act, host = heapq.heappop(self._due)
            act(host, now)
        pause = self._interval
        if self._due:
            pause = min(pause, self._due[0][0] - now)
        if self._polling.unfinished or self._connecting.unfinished:
            pause = min(pause, self._patience)
        for host in self._reading:
            pause = min(pause, host.began + self._timeout - now)
            break
        return max(pause, 0.0)

    def _when(self, when: float, act: Callable[[_Host, float], None], host: _Host) -> None:
        self._numbers += 1
        heapq.heappush(self._due, (when, self._numbers, act, host))
        if when < self._asleep_until:
            self._wake.put(None)

    def _give_slots(self, host: _Host) -> None:
        host.slot = time.monotonic() + self._offset() * self._interval
        self._when(host.slot, self._take_turn, host)

    def _offset(self) -> float:
        # Where in the interval a host has its turn, from 0 to 1.
        self._spread += 1
        return self._spread * _GOLDEN_RATIO % 1

    def _take_turn(self, host: _Host, now: float) -> None:
        missed = int((now - host.slot) // self._interval)
        host.slot += (missed + 1) * self._interval
        self._when(host.slot, self._take_turn, host)
        host.overruns += missed
        if host.overdue:
            self._publish(host, overdue_sample(host, now))
        elif host.given:
            host.overruns += 1
        else:
            self._poll(host, retrying=False)

    def _take_extra_turn(self, host: _Host, now: float) -> None:
        if not host.given:
            self._poll(host, retrying=False)

    def _retry(self, host: _Host, now: float) -> None:
        if not host.given:
            self._poll(host, retrying=True)

    def _poll(self, host: _Host, retrying: bool) -> None:
        host.retrying = retrying
        connected = host.reader.connection is not None
        self._give(host, self._polling if connected else self._connecting)

    def _give_up(self, now: float) -> None:
        while self._reading:
            host = next(iter(self._reading))
            if host.began + self._timeout > now:
                break
            del self._reading[host]
            host.overdue = True
            self._publish(host, overdue_sample(host, now))

    # ---- the workers: what a turn gives ---------------------------------------------------------

    def _give(self, host: _Host, workers: Workers) -> None:
        host.given = True
        workers.do(partial(self._read, host))

    def _read(self, host: _Host) -> None:
        sample = None
        if self._begin(host):
            sample = host.reader.read(partial(self._lost, host))
        with self._lock:
            self._end(host, sample)
            closes = host.given
        if closes:
            host.reader.close()
            with self._lock:
                self._let_go(host)

    def _begin(self, host: _Host) -> bool:
        with self._lock:
            if self._stopped or host.removed:
                return False
            host.began, host.started_at = time.monotonic(), time.time()
            self._reading[host] = None
            return True

    def _end(self, host: _Host, sample: Sample | None) -> None:
        self._reading.pop(host, None)
        if sample is None or self._stopped or host.removed:
            return
        late = host.overdue
        self._let_go(host)
        if not late and not (sample.error is not None and host.retrying):
            self._publish(host, sample)
        if sample.error is not None:
            self._retry_later(host)
        else:
            host.failures = 0
            if late:
                self._when(time.monotonic(), self._take_extra_turn, host)

    def _let_go(self, host: _Host) -> None:
        host.given = host.overdue = False
        self._leaving.pop((host.name, host.reader.uri), None)

    def _retry_later(self, host: _Host) -> None:
        # The waits double, and end with the one for the host's turn.
        delay = min(self._interval * _FIRST_RETRY, 1.0) * 2.0 ** min(host.failures, 64)
        host.failures += 1
        when = time.monotonic() + delay * random.uniform(0.5, 1)
        if when < host.slot:
            self._when(when, self._retry, host)

    def _lost(self, host: _Host) -> None:
        # Called by libvirt's event loop. The reading that follows tells what happened.
        with self._lock:
            if not self._stopped and not host.removed and not host.given:
                self._when(time.monotonic(), self._take_extra_turn, host)


def overdue_sample(host: _Host, now: float) -> Sample:
    """Return the sample of a host that has not answered for too long."""
    duration = now - host.began
    since = datetime.fromtimestamp(host.started_at).astimezone().isoformat(" ", "seconds")
    error = pyvirhost.OperationTimeoutError(
        f"{host.name} has not answered since {since}, for {duration:.1f} s",
        code=pyvirhost.ErrorCode.VIR_ERR_OPERATION_TIMEOUT)
    return Sample(host.name, None, None, error, host.started_at, duration)


# ---- arguments ----------------------------------------------------------------------------------

def checked_hosts(hosts: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Return the hosts' URIs by name, or raise what is wrong with them."""
    if isinstance(hosts, str):
        raise TypeError("hosts must be a mapping or an iterable of str, not a str")
    pairs = list(hosts.items()) if isinstance(hosts, Mapping) else [(uri, uri) for uri in hosts]
    checked: dict[str, str] = {}
    for name, uri in pairs:
        check_host(name, uri)
        if name in checked:
            raise ValueError(f"hosts has {name!r} twice")
        checked[name] = uri
    return checked


def check_host(name: str, uri: str) -> None:
    """Raise what is wrong with a host's name or URI."""
    if not isinstance(name, str):
        raise TypeError(f"a host's name must be a str, not {type(name).__name__}")
    if not isinstance(uri, str):
        raise TypeError(f"a host's URI must be a str, not {type(uri).__name__} (host {name!r})")


def checked_seconds(seconds: float, name: str) -> float:
    """Return a number of seconds, or raise what is wrong with it."""
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(seconds).__name__}")
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be more than 0 seconds, not {seconds}")
    return float(seconds)


def checked_number(number: int, name: str) -> int:
    """Return how many of something there are to be, or raise what is wrong with it."""
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number

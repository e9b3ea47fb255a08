"""A thread that runs what is due, and what callers ask it to run."""

import heapq
import itertools
import math
import os
import time
from _thread import RLock, get_ident
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pyvirhost._events import start_thread

T = TypeVar("T")
Act = Callable[[], object]

# How many seconds a caller waits before it checks whether the thread is still alive.
_LOOK = 1.0
# Up to this many cancelled alarms are kept, or as many as there are others.
_FEW = 64


class Alarm:
    """Something to do at a certain time."""

    __slots__ = ("act",)

    def __init__(self, act: Act) -> None:
        self.act: Act | None = act


class Clock:
    """A thread that runs each thing when it is due.

    It does everything under `lock`, which the package's other threads also take. A caller's thread
    never does: on CPython 3.14 a signal handler's exception can come between taking a lock and the
    body of its ``with``, and the lock is never released (python/cpython#148874). Callers hand over
    work and wait for the result through queues that are written in C.

    Times are by `time.monotonic`.

    Parameters
    ----------
    at_end : callable
        Called by the thread just before it ends, under the lock.
    at_rest : callable, optional
        Called by the thread before it sleeps or ends, under the lock.
    """

    def __init__(self, at_end: Act, at_rest: Act = lambda: None) -> None:
        self.lock = RLock()
        self.at_rest = at_rest
        self._at_end = at_end
        # Whoever takes it is the clock's thread; more than one may be started.
        self._place = [True]
        self._requests: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]] | None] = (
            SimpleQueue())
        # Their times come first, and no two numbers are equal: Python code compares none of them.
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._called_off = 0
        self._numbers = itertools.count()
        self._asleep_until = -math.inf
        self._process: int | None = None
        self._thread: int | None = None
        self._ends_at = math.inf
        self._is_done: Callable[[], bool] = lambda: False
        self._has_ended = False
        self._ended: SimpleQueue[None] = SimpleQueue()

    @property
    def started(self) -> bool:
        """Whether it was started; it may have ended since."""
        return self._process is not None

    @property
    def elsewhere(self) -> bool:
        """Whether it runs in the parent that this process was forked from."""
        return self._process not in (None, os.getpid())

    def start(self) -> None:
        """Start the thread, once.

        Raises
        ------
        RuntimeError
            The system can't start another thread.
        """
        if self._process is None:
            start_thread("pyvirhost-clock", self._run)
            self._process = os.getpid()

    def do(self, act: Callable[[], T]) -> T:
        """Have the thread call `act` now, and return what it returns or raise what it raises.

        Raises
        ------
        RuntimeError
            The thread has ended.
        """
        if self._is_held():
            return act()
        reply = self.request(act)
        while True:
            try:
                result, error = reply.get(timeout=_LOOK)
            except Empty:
                if self._has_ended:
                    raise RuntimeError("its thread has ended") from None
            else:
                if error is not None:
                    raise error
                return result  # type: ignore[no-any-return]

    def request(self, act: Callable[[], Any]) -> SimpleQueue[Any]:
        """Have the thread call `act` now, and return a queue for its result and error."""
        reply: SimpleQueue[Any] = SimpleQueue()
        self._requests.put((act, reply))
        return reply

    def at(self, when: float, act: Act) -> Alarm:
        """Have the thread call `act` at a time. The caller holds the lock."""
        alarm = Alarm(act)
        heapq.heappush(self._alarms, (when, next(self._numbers), alarm))
        if when < self._asleep_until:
            self._asleep_until = when
            self._requests.put(None)
        return alarm

    def call_off(self, alarm: Alarm | None) -> None:
        """Cancel an alarm; do nothing if it has gone off. The caller holds the lock."""
        if alarm is None or alarm.act is None:
            return
        alarm.act = None
        self._called_off += 1
        if self._called_off > _FEW and self._called_off > len(self._alarms) // 2:
            self._alarms = [entry for entry in self._alarms if entry[2].act is not None]
            heapq.heapify(self._alarms)
            self._called_off = 0

    def end(self, ends_at: float, is_done: Callable[[], bool]) -> None:
        """End the thread once `is_done`, or at `ends_at`. The caller holds the lock."""
        self._is_done, self._ends_at = is_done, ends_at
        self._requests.put(None)

    def wake(self) -> None:
        """Make the thread check whether it should end."""
        self._requests.put(None)

    def wait(self, timeout: float) -> None:
        """Wait until the thread has ended, for at most `timeout` seconds."""
        # A signal handler may come between the two steps, and wait as well or raise.
        if self._has_ended or self._is_held():
            return
        with suppress(Empty):
            self._ended.get(timeout=timeout)
            self._ended.put(None)  # for others who wait

    def _is_held(self) -> bool:
        # A finaliser may run in a thread that holds the lock, and must not wait for itself.
        return self._thread == get_ident() or self.lock._is_owned()  # type: ignore[attr-defined]

    def _run(self) -> None:
        try:
            self._place.pop()
        except IndexError:
            return
        self._thread = get_ident()
        try:
            while True:
                with self.lock:
                    now = time.monotonic()
                    self._asleep_until = -math.inf
                    self._do_what_is_due(now)
                    self.at_rest()
                    if self._ends_at < math.inf and (self._is_done() or now >= self._ends_at):
                        break
                    wakes_at = min(self._next(), self._ends_at)
                    self._asleep_until = wakes_at
                try:
                    request = self._requests.get(timeout=self._pause(wakes_at))
                except Empty:
                    continue
                if request is not None:
                    self._answer(*request)
        finally:
            with self.lock:
                self._at_end()
                self.at_rest()
            self._thread = None
            self._has_ended = True
            self._ended.put(None)

    def _do_what_is_due(self, now: float) -> None:
        # What runs may set alarms for now, which must wait for the next round: no rounding error
        # can keep this thread here forever.
        for _ in range(len(self._alarms)):
            if self._alarms[0][0] > now:
                break
            alarm = heapq.heappop(self._alarms)[2]
            act, alarm.act = alarm.act, None
            if act is None:
                self._called_off -= 1
            else:
                act()

    def _next(self) -> float:
        while self._alarms and self._alarms[0][2].act is None:
            heapq.heappop(self._alarms)
            self._called_off -= 1
        return self._alarms[0][0] if self._alarms else math.inf

    def _pause(self, until: float) -> float | None:
        return None if until == math.inf else max(0.0, until - time.monotonic())

    def _answer(self, act: Callable[[], Any], reply: SimpleQueue[Any]) -> None:
        result = error = None
        try:
            with self.lock:
                result = act()
        except BaseException as raised:
            error = raised.with_traceback(None)
        reply.put((result, error))

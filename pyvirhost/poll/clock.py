"""A thread that does what is due, and what callers ask it to do."""

import heapq
import itertools
import math
import os
import time
from _thread import RLock, get_ident
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pyvirhost._events import start_thread

T = TypeVar("T")
Act = Callable[[], object]

# How many seconds a caller waits before it looks whether the thread still lives.
_LOOK = 1.0
# How many alarms that were called off are kept at the most, beside as many that were not.
_FEW = 64


class Alarm:
    """Something to be done at a time."""

    __slots__ = ("act", "order")

    def __init__(self, when: float, number: int, act: Act) -> None:
        self.order = when, number
        self.act: Act | None = act

    def __lt__(self, other: "Alarm") -> bool:
        return self.order < other.order


class Clock:
    """A thread that does what is due at its time.

    All that it does it does under `lock`, which other threads of the package take, too. No caller's
    thread does: on CPython 3.14 an exception of a signal's handler can come between taking a lock
    and the body of its ``with``, and the lock is never let go (python/cpython#148874). Callers hand
    over what is to be done, and wait for the result, by queues that are written in C.

    Times are by `time.monotonic`.

    Parameters
    ----------
    at_end : callable
        Is called by the thread as the last thing that it does.
    """

    def __init__(self, at_end: Act) -> None:
        self.lock = RLock()
        self._at_end = at_end
        # Whoever takes it is the thread; more than one may be started.
        self._place = [True]
        self._requests: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]] | None] = (
            SimpleQueue())
        self._alarms: list[Alarm] = []
        self._called_off = 0
        self._numbers = itertools.count()
        self._asleep_until = -math.inf
        self._process: int | None = None
        self._thread: int | None = None
        self._ends_at = math.inf
        self._is_done: Callable[[], bool] = lambda: False
        self._ended: SimpleQueue[None] = SimpleQueue()

    @property
    def started(self) -> bool:
        """Whether it was started, and may have ended since."""
        return self._process is not None

    @property
    def elsewhere(self) -> bool:
        """Whether it runs in the process that this one was forked from."""
        return self._process not in (None, os.getpid())

    def start(self) -> None:
        """Start the thread, once.

        Raises
        ------
        RuntimeError
            The system has no room for another thread.
        """
        if self._process is None:
            start_thread("pyvirhost-clock", self._run)
            self._process = os.getpid()

    def do(self, act: Callable[[], T]) -> T:
        """Let the thread do something now, and return what that returns or raise what it raises.

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
                if self._has_ended():
                    raise RuntimeError("its thread has ended") from None
            else:
                if error is not None:
                    raise error
                return result  # type: ignore[no-any-return]

    def request(self, act: Callable[[], Any]) -> SimpleQueue[Any]:
        """Let the thread do something now, and return where its result will be."""
        reply: SimpleQueue[Any] = SimpleQueue()
        self._requests.put((act, reply))
        return reply

    def at(self, when: float, act: Act) -> Alarm:
        """Let the thread do something at a time. The caller has the lock."""
        alarm = Alarm(when, next(self._numbers), act)
        heapq.heappush(self._alarms, alarm)
        if when < self._asleep_until:
            self._requests.put(None)
        return alarm

    def call_off(self, alarm: Alarm | None) -> None:
        """Let something not be done; once it was, do nothing. The caller has the lock."""
        if alarm is None or alarm.act is None:
            return
        alarm.act = None
        self._called_off += 1
        if self._called_off > _FEW and self._called_off > len(self._alarms) // 2:
            self._alarms = [kept for kept in self._alarms if kept.act is not None]
            heapq.heapify(self._alarms)
            self._called_off = 0

    def end(self, ends_at: float, is_done: Callable[[], bool]) -> None:
        """Let the thread end once `is_done`, at the latest at a time. The caller has the lock."""
        self._is_done, self._ends_at = is_done, ends_at
        self._requests.put(None)

    def wake(self) -> None:
        """Let the thread look whether it is to end."""
        self._requests.put(None)

    def wait(self, timeout: float) -> None:
        """Wait until the thread has ended, for no more than so many seconds."""
        if self._is_held():
            return
        try:
            self._ended.get(timeout=timeout)
        except Empty:
            return
        self._ended.put(None)  # for others who wait

    def _is_held(self) -> bool:
        # A finaliser may run in a thread that has the lock, and must not wait for itself.
        return self._thread == get_ident() or self.lock._is_owned()  # type: ignore[attr-defined]

    def _has_ended(self) -> bool:
        return not self._ended.empty()

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
                    self._do_what_is_due(now)
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
            self._thread = None
            self._ended.put(None)

    def _do_what_is_due(self, now: float) -> None:
        # What is done may set alarms for now, which have to wait for the next round: no error of
        # rounding can keep this thread here for ever.
        for _ in range(len(self._alarms)):
            if self._alarms[0].order[0] > now:
                break
            alarm = heapq.heappop(self._alarms)
            act, alarm.act = alarm.act, None
            if act is None:
                self._called_off -= 1
            else:
                act()

    def _next(self) -> float:
        return self._alarms[0].order[0] if self._alarms else math.inf

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

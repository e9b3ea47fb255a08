"""Daemon threads that do jobs, and are replaced if a job takes too long."""

import math
import os
import sys
import time
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from typing import Protocol

from pyvirhost._events import start_thread
from pyvirhost.poll.clock import Alarm, Clock

# How many seconds a job waits for a thread that is at work before another one is called. Most
# readings take far less, and to wake a thread costs as much processor time as many of them.
_SOON = 0.01
# Where the process takes more than this share of a processor, or of all of them without a GIL, more
# threads for short jobs would only take time from each other.
_BUSY = 0.5
# After how many seconds without a job a thread ends.
_IDLE = 60.0


class Job(Protocol):
    """Something that a thread does."""

    def __call__(self) -> None:
        """Do it, in one of the threads. This must not raise."""

    def refuse(self, error: Exception) -> None:
        """Handle that no thread can do the job. The caller holds the lock."""


class Workers:
    """Up to `limit` threads that do one job after another, not counting those set aside.

    A job is first left to the threads that are at work. If it still waits after ten milliseconds,
    as many more are called as there are, then again as many: few threads do many short jobs, and as
    many as are needed do long ones. No more are called where the processor is what is missing.

    `concurrent.futures` has no such pool: its threads can't be replaced, and a program can't end
    before they do.

    Parameters
    ----------
    limit : int
        The most threads; they are started as needed, and end when they are not.
    connects : int
        The most threads that do jobs which connect.
    patience : float
        Seconds after which a thread that is still busy is set aside: another may take its place.
    clock : Clock
        Whoever calls a method holds its lock; none of the threads is a caller's. Its `at_rest` is
        also called soon after each job.
    """

    def __init__(self, limit: int, connects: int, patience: float, clock: Clock) -> None:
        self.limit = limit
        self.connects = connects
        # The number of threads, not counting those set aside.
        self.count = 0
        # Why no further thread could be started, at the last attempt.
        self.problem: Exception | None = None
        self._patience = patience
        self._soon = min(_SOON, patience)
        self._clock = clock
        # What waits for a thread, and whether it connects.
        self._jobs: deque[tuple[Job, bool]] = deque()
        # What connects and waits until fewer do, and how many do or are next.
        self._held: deque[Job] = deque()
        self._connecting = 0
        # What wakes each thread that waits. The last is woken first: the caches still know it.
        self._idle: list[LockType] = []
        # How many threads were called and have not looked for a job yet.
        self._coming = 0
        # When to look whether jobs still wait. Since when, and how much processor time and how many
        # jobs had been done by then.
        self._look: Alarm | None = None
        self._since = 0.0, 0.0, 0
        self._done = 0
        # When each thread that is not set aside began its job, in that order; and whether it
        # connects.
        self._busy: dict[int, tuple[float, bool]] = {}
        self._watched = False
        self._ends = False

    def do(self, job: Job, *, connects: bool = False) -> None:
        """Have a thread do a job as soon as one is free."""
        if connects:
            if not self.has_room:
                self._held.append(job)
                return
            self._connecting += 1
        self._jobs.append((job, connects))
        if self._coming == 0 and self._look is None:
            self._call(1)
        self._look_later()

    @property
    def has_room(self) -> bool:
        """Whether one more job may connect now."""
        return self._connecting < self.connects

    def set_aside(self, thread: int) -> None:
        """Let another thread take the place of a busy one."""
        if self._end_job(thread):
            self.count -= 1
            if len(self._jobs) > self._coming:
                self._call(1)

    def end(self) -> None:
        """Make the threads end after the jobs already queued."""
        self._ends = True
        self._call(len(self._idle))

    # ---- how many threads there are -------------------------------------------------------------

    def _call(self, number: int) -> None:
        for _ in range(number):
            if self._idle:
                self._coming += 1
                self._idle.pop().release()
            elif self.count >= self.limit or not self._start():
                break

    def _start(self) -> bool:
        self.count += 1
        self._coming += 1
        try:
            start_thread("pyvirhost-work", self._work)
        except (RuntimeError, MemoryError) as error:
            self.count -= 1
            self._coming -= 1
            self.problem = error
            if self.count == 0:  # otherwise the jobs wait for the existing threads
                self._refuse(error)
            return False
        self.problem = None
        return True

    def _refuse(self, error: Exception) -> None:
        jobs = [job for job, _ in self._jobs]
        self._connecting -= sum(connects for _, connects in self._jobs)
        jobs += self._held
        self._jobs.clear()
        self._held.clear()
        for job in jobs:
            job.refuse(error)

    def _look_later(self) -> None:
        if self._look is None and len(self._jobs) > self._coming and (
                self._idle or self.count < self.limit):
            now = time.monotonic()
            self._since = now, time.process_time(), self._done
            self._look = self._clock.at(now + self._soon, self._look_after_jobs)

    def _look_after_jobs(self) -> None:
        self._look = None
        waiting = len(self._jobs) - self._coming
        at_work = self.count - len(self._idle)
        if not self._is_overworked(at_work):
            self._call(min(waiting, max(1, at_work)))
        self._look_later()

    def _is_overworked(self, at_work: int) -> bool:
        since, used, done = self._since
        return 0 < at_work <= self._done - done and (
            time.process_time() - used > (time.monotonic() - since) * _BUSY * processors())

    # ---- what a thread does ---------------------------------------------------------------------

    def _work(self) -> None:
        thread = get_ident()
        place = allocate_lock()
        place.acquire()
        worked = False
        while True:
            with self._clock.lock:
                if worked and not self._goes_on(thread):
                    self._clock.at_rest()
                    return
                self._coming -= 1
                job = self._next(thread)
                if job is None:
                    if self._ends:
                        self.count -= 1
                        break
                    self._idle.append(place)
            worked = job is not None
            if job is not None:
                job()
                del job  # or what it holds would live until the next job
            elif not place.acquire(timeout=_IDLE) and self._gives_up(place):
                return
        self._clock.wake()

    def _next(self, thread: int) -> Job | None:
        # What was done is only handed over when there is nothing else to do: each time wakes
        # another thread. If the next job takes long, the clock does it.
        if self._look is None or not self._jobs:
            self._clock.at_rest()
        if not self._jobs:
            return None
        job, connects = self._jobs.popleft()
        self._busy[thread] = time.monotonic(), connects
        if not self._watched and self._patience < math.inf:
            self._watch()
        return job

    def _gives_up(self, place: LockType) -> bool:
        with self._clock.lock:
            if place in self._idle:
                self._idle.remove(place)
                self.count -= 1
                return True
        place.acquire()  # it was called just now
        return False

    def _goes_on(self, thread: int) -> bool:
        # A thread that was set aside takes a free place again.
        self._coming += 1
        if not self._end_job(thread):
            if self.count >= self.limit:
                self._coming -= 1
                return False
            self.count += 1
        return True

    def _end_job(self, thread: int) -> bool:
        began = self._busy.pop(thread, None)
        if began is None:
            return False
        self._done += 1
        if began[1]:
            self._connecting -= 1
            if self._held:
                self.do(self._held.popleft(), connects=True)
        return True

    # ---- threads that are busy for too long -----------------------------------------------------

    def _watch(self) -> None:
        # One alarm, for the thread that has been busy longest.
        self._watched = bool(self._busy)
        for began, _ in self._busy.values():
            self._clock.at(began + self._patience, self._look_at_busy)
            break

    def _look_at_busy(self) -> None:
        now = time.monotonic()
        for thread, (began, _) in list(self._busy.items()):
            if began + self._patience > now:
                break
            self.set_aside(thread)
        self._watch()


def processors() -> int:
    """Return how many processors Python code of this process can use at a time."""
    has_gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else len(os.sched_getaffinity(0))

"""Daemon threads that do jobs, and are replaced if a job takes too long."""

import math
import time
from _thread import get_ident
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from pyvirhost._events import start_thread
from pyvirhost.poll.clock import Clock


class Job(Protocol):
    """Something that a thread does."""

    def __call__(self) -> None:
        """Do it, in one of the threads. This must not raise."""

    def refuse(self, error: Exception) -> None:
        """Handle that no thread can do the job. The caller holds the lock."""


class Workers:
    """Up to `limit` threads that do one job after another, not counting those set aside.

    `concurrent.futures` has no such pool: its threads can't be replaced, and a program can't end
    before they do.

    Parameters
    ----------
    limit : int
        The most threads; they are started as needed.
    patience : float
        Seconds after which a thread that is still busy is set aside: another may take its place.
    clock : Clock
        Whoever calls a method holds its lock; none of the threads is a caller's.
    """

    def __init__(self, limit: int, patience: float, clock: Clock) -> None:
        self.limit = limit
        # The number of threads, not counting those set aside.
        self.count = 0
        self._patience = patience
        self._clock = clock
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # Threads that wait for a job, minus jobs that wait for a thread.
        self._free = 0
        # When each thread that is not set aside began its job, in that order.
        self._busy: dict[int, float] = {}
        self._watched = False

    def do(self, job: Job) -> None:
        """Have a thread do a job as soon as one is free."""
        self._free -= 1
        self._jobs.put(job)
        self._staff()

    def set_aside(self, thread: int) -> None:
        """Let another thread take the place of a busy one."""
        if self._busy.pop(thread, None) is not None:
            self.count -= 1
            self._staff()

    def end(self) -> None:
        """Make the threads end after the jobs already queued."""
        self.limit = 0
        for _ in range(self.count):
            self._jobs.put(None)

    def _staff(self) -> None:
        while self._free < 0 and self.count < self.limit:
            try:
                start_thread("pyvirhost-work", self._work)
            except (RuntimeError, MemoryError) as error:
                if self.count == 0:  # otherwise the jobs wait for the existing threads
                    self._refuse(error)
                break
            self.count += 1
            self._free += 1

    def _refuse(self, error: Exception) -> None:
        with suppress(Empty):  # threads that were set aside may come back and also take jobs
            while self._free < 0:
                job = self._jobs.get_nowait()
                self._free += 1
                if job is not None:
                    job.refuse(error)

    def _work(self) -> None:
        thread = get_ident()
        while (job := self._jobs.get()) is not None:
            with self._clock.lock:
                self._begin(thread)
            job()
            del job  # or what it holds would live until the next job
            with self._clock.lock:
                if not self._goes_on(thread):
                    return
        with self._clock.lock:
            self.count -= 1
        self._clock.wake()

    def _begin(self, thread: int) -> None:
        self._busy[thread] = time.monotonic()
        if not self._watched and self._patience < math.inf:
            self._watch()

    def _watch(self) -> None:
        # One alarm, for the thread that has been busy longest.
        self._watched = bool(self._busy)
        for began in self._busy.values():
            self._clock.at(began + self._patience, self._look)
            break

    def _look(self) -> None:
        now = time.monotonic()
        for thread, began in list(self._busy.items()):
            if began + self._patience > now:
                break
            self.set_aside(thread)
        self._watch()

    def _goes_on(self, thread: int) -> bool:
        # A thread that was set aside takes a free place again.
        if self._busy.pop(thread, None) is None:
            if self.count >= self.limit:
                return False
            self.count += 1
        self._free += 1
        return True

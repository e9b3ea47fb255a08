"""Daemon threads that do jobs, and are replaced when a job takes too long."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Workers:
    """Up to so many threads that do one job after another, not counting those set aside.

    `concurrent.futures` has no such pool: its threads can't be replaced, and a program can't end
    before them.

    Parameters
    ----------
    most : int
        How many; they are started as they are needed.
    lock : threading.RLock
        Guards all this. Whoever calls a method holds it.
    """

    def __init__(self, most: int, lock: "threading.RLock") -> None:
        self.threads: set[threading.Thread] = set()
        self._most = most
        self._lock = lock
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Threads that wait for a job, less jobs that wait for a thread.
        self._free = 0
        # When each thread began its job, in that order.
        self._busy: dict[threading.Thread, float] = {}

    @property
    def unfinished(self) -> bool:
        """Whether there are jobs that are not done and not set aside."""
        return bool(self._busy) or not self._jobs.empty()

    def do(self, job: Callable[[], None]) -> None:
        """Have a job done, which must not raise."""
        self._free -= 1
        self._jobs.put(job)
        self._staff()

    def set_aside(self, began_before: float) -> None:
        """Let others take the places of threads whose jobs began before then."""
        for thread, began in list(self._busy.items()):
            if began > began_before:
                break
            del self._busy[thread]
            self.threads.discard(thread)
        self._staff()

    def end(self) -> None:
        """Let the threads end after the jobs that are there."""
        self._most = 0
        for _ in self.threads:
            self._jobs.put(None)

    def _staff(self) -> None:
        while self._free < 0 and len(self.threads) < self._most:
            thread = threading.Thread(target=self._work, name="pyvirhost-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads: the job waits for one that is
                break
            self.threads.add(thread)
            self._free += 1

    def _work(self) -> None:
        thread = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._busy[thread] = time.monotonic()
            job()
            del job  # or it would keep what it holds until the next one
            with self._lock:
                if not self._goes_on(thread):
                    return

    def _goes_on(self, thread: threading.Thread) -> bool:
        # One that was set aside takes a place again where there is one.
        if self._busy.pop(thread, None) is None:
            if len(self.threads) >= self._most:
                return False
            self.threads.add(thread)
        self._free += 1
        return True

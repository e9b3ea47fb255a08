"""Many hosts, each read once: by threads of this process, or by an executor."""

import os
import pickle
import time
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from weakref import WeakKeyDictionary

from pyvirhost._events import start_thread
from pyvirhost.poll.arguments import LEAST_SECONDS, checked_seconds
from pyvirhost.poll.fleet import Fleet, no_answer
from pyvirhost.poll.host import Host, Hosts, hosts_by_name
from pyvirhost.poll.link import Answer, Link
from pyvirhost.poll.sample import Reading, Sample, sample_of

# A host that takes longer than this fraction of the timeout gives up its place among the workers.
_PATIENCE = 1 / 20
# A connection that an executor's tasks have not used for this many seconds is closed.
_KEPT = 600.0


def poll_once(
    hosts: Hosts,
    *,
    timeout: float = 10.0,
    fields: Iterable[str] | None = None,
    page_sizes: Iterable[int] | None = None,
    workers: int | None = None,
    max_connects: int | None = None,
    executor: Executor | None = None,
) -> dict[str, Sample]:
    """Read each host once and return when all have answered or `timeout` has elapsed.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str or Host
        URIs by name, URIs that also serve as names, or `Host` objects.
    timeout : float, default 10.0
        Seconds for the whole sweep. A host that has not answered by then, or within its `Host`'s
        own timeout, has an `OperationTimeoutError`.
    fields, page_sizes, workers, max_connects
        As for `Poller`.
    executor : concurrent.futures.Executor, optional
        Reads the hosts instead of threads of this call: with threads, processes or other machines,
        as many at a time as it likes. A host that hangs occupies one of its workers and is not
        submitted again until it stops hanging. Its processes keep their connections for the next
        sweep, unless that is more than ten minutes later.

    Returns
    -------
    dict of str to Sample
        By name, in the order of `hosts`. There are no rates; compute them from two sweeps'
        snapshots.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument is invalid; the message names it.

    Examples
    --------
    >>> samples = pyvirhost.poll_once({"one": "test:///default"})
    >>> samples["one"].snapshot.free_memory
    3145728
    """
    named = hosts_by_name(hosts)
    timeout = checked_seconds(timeout, "timeout")
    reading = Reading(fields, page_sizes)
    if executor is not None:
        return _by_executor(executor, named, timeout, reading)
    with Fleet(named.values(), workers=workers, max_connects=max_connects,
               patience=max(timeout * _PATIENCE, LEAST_SECONDS)) as fleet:
        samples = {answer.host.name: sample_of(answer)
                   for answer in fleet.ask(reading, timeout=timeout)}
    return {name: samples[name] for name in named}


# ---- by an executor -----------------------------------------------------------------------------

class _Task:
    """A host's reading, submitted to an executor."""

    def __init__(self, executor: Executor, host: Host, reading: Reading, key: bytes | int) -> None:
        self.host = host
        self.started_at, self.began = time.time(), time.monotonic()
        self.future: Future[Sample]
        try:
            # Some executors, such as Dask's, treat calls with equal arguments as one task.
            self.future = executor.submit(read_kept, host, reading, key, os.urandom(8))
        except BrokenExecutor as error:  # a worker died that was reading another host
            self.future = Future()
            self.future.set_exception(error)

    def wait(self, until: float) -> None:
        """Wait until it is done, or until a time by the monotonic clock."""
        wait([self.future], max(0.0, until - time.monotonic()))

    def sample(self) -> Sample:
        """Return its sample, or one with the error that prevented it."""
        duration = time.monotonic() - self.began
        error: BaseException | None
        if not self.future.done():
            error = no_answer(duration, self.started_at)
        elif self.future.cancelled():
            error = CancelledError("the executor cancelled the reading")
        elif (error := self.future.exception()) is None:
            return self.future.result()
        return Sample(self.host.name, None, None, error, self.started_at, duration)


# Each executor's unfinished readings. A host that hangs is not submitted again, or it would occupy
# one worker after another.
_open_tasks: "WeakKeyDictionary[Executor, dict[bytes | int, _Task]]" = WeakKeyDictionary()


def _by_executor(
    executor: Executor, hosts: dict[str, Host], timeout: float, reading: Reading
) -> dict[str, Sample]:
    began = time.monotonic()
    tasks = _open_tasks.setdefault(executor, {})
    for key in [key for key, task in tasks.items() if task.future.done()]:
        del tasks[key]
    keys = {name: _key(host) for name, host in hosts.items()}
    for name, key in keys.items():
        if key not in tasks:
            tasks[key] = _Task(executor, hosts[name], reading, key)
    samples = {}
    # The shortest timeouts come first, so that none is exceeded.
    limits = {name: min(host.timeout or timeout, timeout) for name, host in hosts.items()}
    for name in sorted(limits, key=limits.__getitem__):
        key, until = keys[name], began + limits[name]
        tasks[key].wait(until)
        if tasks[key].began < began and tasks[key].future.done():
            # The answer to an earlier call came only now, and is too old.
            tasks[key] = _Task(executor, hosts[name], reading, key)
            tasks[key].wait(until)
        samples[name] = tasks[key].sample()
    return {name: samples[name] for name in hosts}


def _key(host: Host) -> bytes | int:
    # Each task may get a copy of the host, so its content identifies it.
    try:
        return pickle.dumps(host)
    except Exception:
        return id(host)


class _Kept:
    """A link kept between two tasks of an executor."""

    def __init__(self, host: Host) -> None:
        self.link = Link(host)
        self.used_at, self.used = time.time(), time.monotonic()


# Links that no task uses, the most recently used last, and links in use. A task owns what it took
# out of the first or was first to put into the second, so no two share one, without a lock that a
# signal handler could leave held.
_kept: dict[bytes | int, _Kept] = {}
_in_use: dict[bytes | int, _Kept] = {}


def _forget() -> None:
    # A forked child can't use its parent's connections.
    _kept.clear()
    _in_use.clear()


os.register_at_fork(after_in_child=_forget)


def read_kept(host: Host, reading: Reading, key: bytes | int, task: bytes) -> Sample:
    """Read a host over the connection that this process keeps for it: an executor's task."""
    _close_unused()
    kept = _Kept(host)
    other = _in_use.setdefault(key, kept)
    if other is not kept:
        duration = time.monotonic() - other.used
        return sample_of(Answer(host, None, no_answer(duration, other.used_at), True,
                                other.used_at, duration))
    try:
        earlier = _kept.pop(key, None)
        if earlier is not None:
            kept.link = earlier.link
        return sample_of(kept.link.ask(reading))
    finally:
        kept.used = time.monotonic()
        _kept[key] = kept
        del _in_use[key]


def _close_unused() -> None:
    while True:
        try:
            key, kept = next(iter(_kept.items()))
        except (StopIteration, RuntimeError):  # there is none, or another task has just changed it
            break
        if kept.used + _KEPT > time.monotonic():
            break
        if _kept.pop(key, None) is kept:
            try:
                # A server that hangs would also hang this task.
                start_thread("pyvirhost-close", kept.link.close)
            except RuntimeError:  # no thread can be started now
                _kept[key] = kept
                break

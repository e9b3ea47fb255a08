"""Many hosts, each read once: by threads of this process, or by anybody's executor."""

import os
import pickle
import time
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from weakref import WeakKeyDictionary

from pyvirhost._events import start_thread
from pyvirhost.poll.arguments import LEAST_SECONDS, checked_seconds
from pyvirhost.poll.fleet import MAX_CONNECTS, WORKERS, Fleet, no_answer
from pyvirhost.poll.host import Host, Hosts, hosts_by_name
from pyvirhost.poll.link import Answer, Link
from pyvirhost.poll.sample import Reading, Sample, sample_of

# A host that takes longer than this part of the time gives up its place among the workers.
_PATIENCE = 1 / 20
# A connection that an executor's tasks have not used for so many seconds is closed.
_KEPT = 600.0


def poll_once(
    hosts: Hosts,
    *,
    timeout: float = 10.0,
    fields: Iterable[str] | None = None,
    page_sizes: Iterable[int] | None = None,
    workers: int = WORKERS,
    max_connects: int | None = MAX_CONNECTS,
    executor: Executor | None = None,
) -> dict[str, Sample]:
    """Read each host once and return when all have answered, or when the time is over.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str or Host
        The hosts' URIs by name, URIs that are the names, too, or `Host`.
    timeout : float, default 10.0
        Seconds for all of it. A host that has not answered by then has an `OperationTimeoutError`;
        so has one that takes longer than the timeout of its own `Host`.
    fields, page_sizes, workers, max_connects
        As for `Poller`.
    executor : concurrent.futures.Executor, optional
        What reads the hosts in place of threads of this call: threads, processes or other machines,
        as many at a time as it likes. A host that hangs keeps one of its workers for as long as it
        hangs, and is not given to it again before. Its processes keep their connections for the
        next time, unless that is more than ten minutes later.

    Returns
    -------
    dict of str to Sample
        By name, in the order of `hosts`. There are no rates; two sweeps' snapshots have them.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument makes no sense; it is named.

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
    """A host's reading that an executor was given."""

    def __init__(self, executor: Executor, host: Host, reading: Reading, key: bytes | int) -> None:
        self.host = host
        self.started_at, self.began = time.time(), time.monotonic()
        self.future: Future[Sample]
        try:
            # Some executors, Dask's among them, take equal arguments for one task with one result.
            self.future = executor.submit(read_kept, host, reading, key, os.urandom(8))
        except BrokenExecutor as error:  # by the death of a worker that had another host
            self.future = Future()
            self.future.set_exception(error)

    def wait(self, until: float) -> None:
        """Wait until it is done, or for that time by the monotonic clock."""
        wait([self.future], max(0.0, until - time.monotonic()))

    def sample(self) -> Sample:
        """Return what it gave, or why it gave nothing."""
        duration = time.monotonic() - self.began
        error: BaseException | None
        if not self.future.done():
            error = no_answer(duration, self.started_at)
        elif self.future.cancelled():
            error = CancelledError("the executor cancelled the reading")
        elif (error := self.future.exception()) is None:
            return self.future.result()
        return Sample(self.host.name, None, None, error, self.started_at, duration)


# The readings that each executor has not done yet. A host that hangs is not given to it again, or
# it would take one worker after another.
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
    # Those whose time is over first come first, so that nobody waits too long.
    limits = {name: min(host.timeout or timeout, timeout) for name, host in hosts.items()}
    for name in sorted(limits, key=limits.__getitem__):
        key, until = keys[name], began + limits[name]
        tasks[key].wait(until)
        if tasks[key].began < began and tasks[key].future.done():
            # What an earlier call asked, and is too old, came only now.
            tasks[key] = _Task(executor, hosts[name], reading, key)
            tasks[key].wait(until)
        samples[name] = tasks[key].sample()
    return {name: samples[name] for name in hosts}


def _key(host: Host) -> bytes | int:
    # Each task may get a copy of the host; what it holds tells it from another one.
    try:
        return pickle.dumps(host)
    except Exception:
        return id(host)


class _Kept:
    """A link between two tasks of an executor."""

    def __init__(self, host: Host) -> None:
        self.link = Link(host)
        self.used_at, self.used = time.time(), time.monotonic()


# Those that no task uses, the last used as the last one, and those that one does. A task has what
# it took out of the one, or was the first to put into the other: no two have the same, without a
# lock that a signal's handler could leave held.
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
    for key, kept in list(_kept.items()):
        if kept.used + _KEPT > time.monotonic():
            break
        if _kept.pop(key, None) is kept:
            try:
                # A server that hangs would hang this task, too.
                start_thread("pyvirhost-close", kept.link.close)
            except RuntimeError:  # no room for a thread now
                _kept[key] = kept
                break

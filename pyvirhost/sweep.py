"""Many hosts, each read once: by threads of this process, or by anybody's executor."""

import os
import pickle
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import replace
from queue import Empty

import pyvirhost
from pyvirhost.auth import Authenticator
from pyvirhost.poller import Poller, checked_hosts, checked_seconds
from pyvirhost.sample import Reader, Sample, Settings, checked_settings

# A connection that an executor's tasks have not used for so many seconds is closed.
_KEPT = 600.0


def poll_once(
    hosts: Mapping[str, str] | Iterable[str],
    timeout: float = 10.0,
    workers: int = 32,
    fields: Iterable[str] | None = None,
    keepalive: tuple[int, int] | None = (5, 3),
    readonly: bool = True,
    *,
    page_sizes: Iterable[int] | None = None,
    auth: Authenticator | None = None,
    max_connects: int = 16,
    executor: Executor | None = None,
) -> dict[str, Sample]:
    """Read each host once and return when all have answered, or when the time is over.

    Parameters
    ----------
    hosts : mapping of str to str, or iterable of str
        The hosts' URIs by name, or URIs that are the names, too.
    timeout : float, default 10.0
        Seconds for all of it. A host that has not answered by then has an `OperationTimeoutError`.
    workers, fields, keepalive, readonly, page_sizes, auth, max_connects
        As for `Poller`.
    executor : concurrent.futures.Executor, optional
        What reads the hosts in place of threads of this call: threads, processes or other machines,
        as many at a time as it likes. A host that hangs keeps one of its workers, for as long as it
        hangs. Its processes keep their connections for the next time, unless that is more than ten
        minutes later.

    Returns
    -------
    dict of str to Sample
        By name, in the order of `hosts`. There are no rates; two sweeps' snapshots have them.

    Examples
    --------
    >>> samples = pyvirhost.poll_once({"one": "test:///default"})
    >>> samples["one"].snapshot.free_memory
    3145728
    """
    named = checked_hosts(hosts)
    timeout = checked_seconds(timeout, "timeout")
    settings = checked_settings(fields, page_sizes, keepalive, readonly, auth)
    started_at, began = time.time(), time.monotonic()
    if executor is None:
        samples = _sweep(_Sweep(
            named, timeout, None, workers, fields=settings.fields, keepalive=keepalive,
            readonly=readonly, page_sizes=settings.page_sizes, auth=auth,
            max_connects=max_connects), began + timeout)
    else:
        samples = _gather(executor, named, timeout, settings)
    duration = time.monotonic() - began
    return {name: samples.get(name) or _unanswered(name, started_at, duration) for name in named}


def _unanswered(name: str, started_at: float, duration: float) -> Sample:
    error = pyvirhost.OperationTimeoutError(
        f"{name} has not answered for {duration:.1f} s",
        code=pyvirhost.ErrorCode.VIR_ERR_OPERATION_TIMEOUT)
    return Sample(name, None, None, error, started_at, duration)


# ---- by threads of this process -----------------------------------------------------------------

class _Sweep(Poller):
    """A poller in which all hosts have their turn at once."""

    def _offset(self) -> float:
        return 0.0


def _sweep(poller: Poller, deadline: float) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    missing = len(poller.hosts)
    with poller:
        while len(samples) < missing:
            try:
                sample = poller._next(max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            assert sample is not None
            samples.setdefault(sample.host, sample)
    return samples


# ---- by an executor -----------------------------------------------------------------------------

def _gather(
    executor: Executor, named: dict[str, str], timeout: float, settings: Settings
) -> dict[str, Sample]:
    identity = _identity(settings.auth)
    futures = {executor.submit(read_kept, name, uri, settings, identity): name
               for name, uri in named.items()}
    done, late = wait(futures, timeout)
    for future in late:
        future.cancel()
    return {futures[future]: _outcome(futures[future], future) for future in done}


def _outcome(name: str, future: Future[Sample]) -> Sample:
    error = future.exception()
    return future.result() if error is None else Sample(name, None, None, error, time.time(), 0.0)


def _identity(auth: Authenticator | None) -> bytes | int:
    # Each task may get a copy of its own; these are told from another one by what they hold.
    try:
        return pickle.dumps(auth)
    except Exception:
        return id(auth)


class _Kept:
    """A reader between two tasks of an executor."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.in_use = threading.Lock()
        self.used = time.monotonic()


_kept: dict[object, _Kept] = {}
_kept_lock = threading.Lock()


def _forget() -> None:
    # A forked child can't use its parent's connections, nor its locks.
    global _kept_lock
    _kept.clear()
    _kept_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def read_kept(name: str, uri: str, settings: Settings, identity: bytes | int) -> Sample:
    """Read a host over the connection that this process keeps for it: an executor's task."""
    key = (name, uri, replace(settings, auth=None), identity)
    with _kept_lock:
        kept = _kept.pop(key, None) or _Kept(Reader(name, uri, settings))
        _kept[key] = kept  # the last used is the last one
        _close_unused()
    if not kept.in_use.acquire(blocking=False):
        return _unanswered(name, time.time(), time.monotonic() - kept.used)
    try:
        kept.used = time.monotonic()
        return replace(kept.reader.read(), rates=None)
    finally:
        kept.in_use.release()


def _close_unused() -> None:
    for key, kept in list(_kept.items()):
        if kept.used + _KEPT > time.monotonic():
            break
        if kept.in_use.acquire(blocking=False):
            del _kept[key]
            # A server that hangs would hang this task, too.
            threading.Thread(target=kept.reader.close, daemon=True).start()

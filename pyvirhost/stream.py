"""The command ``poll``: samples of many hosts as lines of JSON, for other programs."""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import pyvirhost
from pyvirhost.cli import HOST_FAILED, WRONG_COMMAND_LINE, PrintingError, decline, fail, write
from pyvirhost.hosts import Host
from pyvirhost.poller import Poller
from pyvirhost.sample import Sample, checked_fields
from pyvirhost.sweep import poll_once
from pyvirhost.values import sample_values

# For how many seconds a line that a signal found half written may take its reader.
_LAST_LINE = 0.1


def poll(hosts: Sequence[Host], arguments: argparse.Namespace) -> int:
    """Print a line for each sample and return the exit status."""
    try:
        fields = checked_fields(arguments.fields or pyvirhost.PRIORITY_FIELDS)
    except ValueError as error:
        return fail(str(error), WRONG_COMMAND_LINE)
    try:
        groups = groups_of(hosts, fields, arguments)
    except pyvirhost.LibvirtError as error:
        return fail(f"cannot open the default URI: {error}")
    lines = Lines([name for group in groups for name in group["hosts"]], arguments.count)
    pollers: list[Poller] = []
    sources: list[Callable[[], Iterable[Sample]]] = []
    for group in groups:
        if arguments.count == 1:
            sources.append(partial(sweep, group))
        else:
            pollers.append(poller := Poller(interval=arguments.interval, **group))
            sources.append(poller.__iter__)
    threads = [threading.Thread(target=lines.print, args=(source,), daemon=True)
               for source in sources]
    handler = signal.signal(signal.SIGTERM, terminate)
    try:
        for thread in threads:
            thread.start()
        # Those threads print and this one waits: no signal cuts a line in two.
        return lines.status.result()
    except TerminatedError:
        end(pollers, threads)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        end(pollers, threads)
        signal.signal(signal.SIGTERM, handler)


def groups_of(hosts: Sequence[Host], fields: Sequence[str], arguments: argparse.Namespace
              ) -> list[dict[str, Any]]:
    """Return the arguments of a `Poller` for the hosts of each timeout and keepalive there is.

    Raises
    ------
    LibvirtError
        No URI is given, and libvirt finds none.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for host in hosts:
        uri = host.uri
        if uri is None:
            with host.open(readonly=True, auth=decline) as connection:
                uri = connection.uri()
        group = groups.setdefault((host.timeout, host.keepalive), {
            "hosts": {}, "timeout": host.timeout or arguments.interval,
            "workers": arguments.parallel, "fields": fields, "keepalive": host.keepalive,
            "auth": decline})
        group["hosts"][host.name] = uri
    return list(groups.values())


def sweep(group: Mapping[str, Any]) -> Iterable[Sample]:
    """Return one sample of each host of a group."""
    return poll_once(**group).values()


class Lines:
    """Samples as lines of JSON on standard output, printed by several threads.

    Parameters
    ----------
    hosts : iterable of str
    count : int, optional
        How many samples of each host to print; by default there is no end.
    """

    def __init__(self, hosts: Iterable[str], count: int | None) -> None:
        self.status: Future[int] = Future()
        """The exit status, once all is printed or nothing can be."""
        self.missing: dict[str, float] = dict.fromkeys(hosts, count or float("inf"))
        self.failed = False
        self.lock = threading.Lock()

    def print(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Print samples until there are no more."""
        try:
            for sample in source():
                with self.lock:
                    self.take(sample)
                if self.status.done():
                    break
        except PrintingError as error:
            self.end(error.status)
        except BaseException as error:
            with suppress(InvalidStateError):
                self.status.set_exception(error)

    def take(self, sample: Sample) -> None:
        """Print a sample, unless it is one too many."""
        if self.missing[sample.host] and not self.status.done():
            write(json.dumps(sample_values(sample), allow_nan=False))
            self.failed |= sample.error is not None
            self.missing[sample.host] -= 1
            if not any(self.missing.values()):
                self.end(HOST_FAILED if self.failed else 0)

    def end(self, status: int) -> None:
        """Set the exit status, of which the first is the right one."""
        with suppress(InvalidStateError):
            self.status.set_result(status)


class TerminatedError(Exception):
    """SIGTERM has come."""


def terminate(number: int, frame: object) -> NoReturn:
    """Handle SIGTERM, the first of them, since some programs send it twice."""
    signal.signal(number, signal.SIG_IGN)
    raise TerminatedError


def end(pollers: Sequence[Poller], threads: Sequence[threading.Thread]) -> None:
    """Stop pollers side by side, each of which may take most of a second, and those who print."""
    stopping = [threading.Thread(target=poller.stop, daemon=True) for poller in pollers]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()
    deadline = time.monotonic() + _LAST_LINE
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))

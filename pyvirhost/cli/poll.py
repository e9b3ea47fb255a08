"""The command ``poll``: samples of many hosts as lines of JSON, for other programs."""

import argparse
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from queue import SimpleQueue

from pyvirhost.cli.output import HOST_FAILED, WRONG_COMMAND_LINE, PrintingError, fail, write
from pyvirhost.poll.arguments import LEAST_SECONDS
from pyvirhost.poll.fleet import Fleet
from pyvirhost.poll.host import Host
from pyvirhost.poll.link import without_frames
from pyvirhost.poll.poller import Poller
from pyvirhost.poll.sample import Reading, Sample, sample_of
from pyvirhost.values import sample_values

# How many seconds a reader has to take a line that a signal found half written.
_LAST_LINE = 0.1
# With --once, a host that takes longer than this fraction of the interval gives up its place.
_PATIENCE = 1 / 20


def poll(hosts: Sequence[Host], arguments: argparse.Namespace) -> int:
    """Print a line for each sample and return the exit status."""
    try:
        reading = Reading(arguments.fields)
    except ValueError as error:
        return fail(str(error), WRONG_COMMAND_LINE)
    source: Fleet | Poller
    samples: Iterable[Sample]
    if arguments.count == 1:
        patience = max(arguments.interval * _PATIENCE, LEAST_SECONDS)
        source = Fleet([replace(host, timeout=host.timeout or arguments.interval)
                        for host in hosts],
                       workers=arguments.parallel, max_connects=arguments.parallel,
                       patience=patience, keeps=False)
        samples = map(sample_of, source.ask(reading))
    else:
        source = Poller(hosts, interval=arguments.interval, fields=reading.fields,
                        workers=arguments.parallel, max_connects=arguments.parallel)
        samples = source.__iter__()
    ended: SimpleQueue[int | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            ended.put(print_samples(samples, [host.name for host in hosts], arguments.count))
        except PrintingError as error:
            ended.put(error.status)
        except BaseException as error:
            ended.put(error)

    # That thread prints while this one waits, so no signal cuts a line in two.
    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        status = ended.get()
    finally:
        source.stop() if isinstance(source, Poller) else source.close()
        if thread.ident is not None:
            thread.join(_LAST_LINE)
    if isinstance(status, BaseException):
        raise status
    return status


def print_samples(samples: Iterable[Sample], hosts: Iterable[str], count: int | None) -> int:
    """Print `count` samples of each host, by default without end, and return the exit status."""
    missing = dict.fromkeys(hosts, count or float("inf"))
    failed = False
    for sample in samples:
        if sample.host not in missing:
            continue
        text, error = line_of(sample)
        write(text)
        failed |= error is not None
        missing[sample.host] -= 1
        if not missing[sample.host]:
            del missing[sample.host]
            if not missing:
                break
    return HOST_FAILED if failed else 0


def line_of(sample: Sample) -> tuple[str, BaseException | None]:
    """Return a sample as JSON, and its error, which may come from the conversion itself."""
    try:
        return json.dumps(sample_values(sample), allow_nan=False), sample.error
    except Exception as error:
        failed = replace(sample, snapshot=None, rates=None, error=without_frames(error))
        return json.dumps(sample_values(failed)), error

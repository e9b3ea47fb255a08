"""What polling many hosts costs, and whether hosts that hang delay the others."""

import collections
import contextlib
import gc
import itertools
import signal
import statistics
import time

from daemon import Daemon

from benchmarks import OURS, worker
from benchmarks.rounds import clock
from benchmarks.scale import resident

INTERVAL = 5
HERE = "test:///default"
HOSTS = 1000
DAEMONS, STOPPED = 200, 20
MANY = "max_clients = 500\nmax_anonymous_clients = 500\n"

COST = f"Poller, {HOSTS:,} hosts in process every {INTERVAL} s: CPU a sample"
LATE = f"Poller, {DAEMONS} connections to one daemon: p99 lateness"
NONE_HANG = f"Poller, {DAEMONS} daemons: p99 lateness"
SOME_HANG = f"Poller, {DAEMONS} daemons, {STOPPED} of them hang: p99 lateness of the others"
MEMORY = f"Poller, {HOSTS:,} hosts of which 50 remote: memory a host"
# What a minute's samples may leave behind.
LEAK = 500 << 10


def part(which):
    """Return the name of the part that a function here measures."""
    return f"poller ({which.replace('_', ' ')})"


def take(poller, seconds):
    """Return the samples of the next so many seconds."""
    samples = []
    end = clock() + seconds
    for sample in poller:
        samples.append(sample)
        if clock() > end:
            return samples
    raise AssertionError("the poller has stopped")


def drain(poller, seconds):
    """Take the samples of the next so many seconds and keep none."""
    end = clock() + seconds
    for _ in poller:
        if clock() > end:
            return
    raise AssertionError("the poller has stopped")


def demand(good, problem):
    """Let the part fail where a poller does not do what it promises."""
    if not good:
        raise AssertionError(problem)


def lateness(samples):
    """Return how many seconds from an interval's end each host's next reading began: the p99."""
    times = collections.defaultdict(list)
    for sample in samples:
        times[sample.host].append(sample.started_at)
    late = [abs(later - earlier - INTERVAL) for starts in times.values()
            for earlier, later in itertools.pairwise(starts)]
    return statistics.quantiles(late, n=100)[98]


def in_process(seconds):
    """Poll hosts of the test driver."""
    import pyvirhost

    hosts = {f"host{number}": HERE for number in range(HOSTS)}
    with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
        take(poller, INTERVAL * 1.5)
        used = time.process_time()
        samples = take(poller, seconds)
        used = time.process_time() - used
        demand(not sum(poller.overruns.values()) + poller.dropped, "turns were skipped")
    return [(COST, OURS, "second", [used / len(samples)])]


def one_daemon(seconds):
    """Poll one daemon over many connections."""
    import pyvirhost

    with Daemon(settings=MANY) as daemon:
        hosts = {f"host{number}": daemon.test_uri for number in range(DAEMONS)}
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            take(poller, INTERVAL * 2.5)
            samples = take(poller, seconds)
    lost = {sample.host for sample in samples if sample.error is not None}
    lost |= hosts.keys() - {sample.host for sample in samples}
    demand(not lost, f"without a sample: {lost}")
    return [(LATE, OURS, "second", [lateness(samples)])]


def some_hang(seconds):
    """Poll many daemons of which some are stopped after a while, and go on again."""
    import pyvirhost

    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(Daemon()) for _ in range(DAEMONS)]
        names = [f"host{number}" for number in range(DAEMONS)]
        hung = dict(zip(names[::DAEMONS // STOPPED], daemons[::DAEMONS // STOPPED], strict=True))
        hosts = {name: daemon.test_uri for name, daemon in zip(names, daemons, strict=True)}
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            take(poller, INTERVAL * 2.5)
            before = lateness(take(poller, seconds))
            for daemon in hung.values():
                daemon.process.send_signal(signal.SIGSTOP)
            try:
                samples = take(poller, seconds)
            finally:
                for daemon in hung.values():
                    daemon.process.send_signal(signal.SIGCONT)
            back = {sample.host for sample in take(poller, 2 * INTERVAL) if sample.snapshot}
    wrong = {sample.host for sample in samples if sample.error is not None} ^ hung.keys()
    demand(not wrong, f"errors of others than those that hung: {wrong}")
    demand(back >= hung.keys(), f"not back: {hung.keys() - back}")
    well = [sample for sample in samples if sample.host not in hung]
    return [(NONE_HANG, OURS, "second", [before]), (SOME_HANG, OURS, "second", [lateness(well)])]


def memory(seconds):
    """Poll until a leak of a part of a sample would show."""
    import pyvirhost

    with Daemon(settings=MANY) as daemon:
        hosts = {f"host{number}": HERE for number in range(HOSTS - 50)}
        hosts |= {f"remote{number}": daemon.qemu_uri for number in range(50)}
        pyvirhost.poll_once([HERE, daemon.qemu_uri])  # loads what is loaded once
        readings = [resident()]
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            for duration in (INTERVAL * 4, seconds):
                drain(poller, duration)
                gc.collect()
                readings.append(resident())
    before, settled, after = readings
    demand(after - settled < LEAK, f"{after - settled} bytes more after {seconds} s")
    return [(MEMORY, OURS, "byte", [(settled - before) / HOSTS])]


PARTS = {"in_process": 15, "one_daemon": 30, "some_hang": 20, "memory": 60}


def measure(which, seconds):
    """Measure one of the parts for so many seconds."""
    return globals()[which](seconds)


if __name__ == "__main__":
    worker.answer(measure)

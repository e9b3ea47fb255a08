"""What polling many hosts costs, and whether hosts that hang delay the others."""

import collections
import contextlib
import gc
import itertools
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from daemon import Daemon

from benchmarks import OURS, THEIRS, connections, worker
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
# A daemon of libvirt's is slow for more clients than this, whose cost is not what is measured.
CLIENTS = 200
FLEETS = {1000: 5, 5000: 10}  # hosts: seconds
LOST = "Poller, 5,000 hosts whose daemons are killed: until all losses are known"
BACK = "Poller, 5,000 hosts whose daemons are back: until all have a sample"
REMOTE_MEMORY = "Poller, 5,000 remote hosts: memory a host"
MEMORY = f"Poller, {HOSTS:,} hosts of which 50 remote: memory a host"
# What a minute's samples may leave behind.
LEAK = 500 << 10


def share(hosts):
    """Return what the table calls the CPU that a fleet takes."""
    return f"Poller, {hosts:,} remote hosts every {FLEETS[hosts]} s: of a core"


def late(hosts):
    """Return what the table calls the lateness of a fleet's samples."""
    return f"Poller, {hosts:,} remote hosts every {FLEETS[hosts]} s: p99 lateness, of the interval"


def due(hosts):
    """Return what the table calls how many of the samples that are due there are."""
    return f"Poller, {hosts:,} remote hosts every {FLEETS[hosts]} s: of the samples due"


def a_core(hosts):
    """Return what the table calls how many a core could read."""
    return f"{hosts:,} remote hosts every {FLEETS[hosts]} s: samples a second of a core"


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


def lateness(samples, interval=INTERVAL):
    """Return how many seconds from an interval's end each host's next reading began: the p99."""
    times = collections.defaultdict(list)
    for sample in samples:
        times[sample.host].append(sample.started_at)
    late = [abs(later - earlier - interval) for starts in times.values()
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


@contextlib.contextmanager
def fleet(count):
    """Start as many daemons as so many hosts take; yield them and the hosts."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(Daemon(settings=MANY)) for _ in range(count // CLIENTS)]
        yield daemons, {f"host{number}": daemons[number % len(daemons)].test_uri
                        for number in range(count)}


def watched(poller, count, seconds):
    """Return the rows that tell what a running poller of so many hosts costs and how it does."""
    interval = FLEETS[count]
    used = time.process_time()
    samples = take(poller, seconds)
    used = time.process_time() - used
    wrong = [sample.error for sample in samples if sample.error is not None]
    demand(not wrong, f"errors of hosts that are well: {wrong[:3]}")
    return [(share(count), OURS, "integer", [used / seconds]),
            (a_core(count), OURS, "second", [used / len(samples)]),
            (due(count), OURS, "integer", [len(samples) / (count * seconds / interval)]),
            (late(count), OURS, "integer", [lateness(samples, interval) / interval])]


def thousand(seconds):
    """Poll a thousand hosts."""
    import pyvirhost

    with fleet(1000) as (_, hosts), pyvirhost.Poller(
            hosts, interval=FLEETS[1000], fields=connections.FIELDS) as poller:
        take(poller, FLEETS[1000] * 2)
        return watched(poller, 1000, seconds)


def pool(seconds):
    """Read a thousand hosts by libvirt-python in the threads of a pool, each once an interval."""
    open_one, read = connections.theirs(True)
    with fleet(1000) as (_, uris), ThreadPoolExecutor(16) as pool:
        hosts = list(pool.map(open_one, uris.values()))
        begin = clock()
        turns, used = 0, 0.0
        while clock() < begin + seconds:
            before = time.process_time()
            list(pool.map(read, hosts))
            turns += 1
            time.sleep(max(0.0, begin + turns * FLEETS[len(hosts)] - clock()))
            used += time.process_time() - before
        for host in hosts:
            host.close()
    return [(a_core(len(uris)), THEIRS, "second", [used / turns / len(uris)])]


def five_thousand(seconds):
    """Poll five thousand hosts, kill their daemons, and start them again."""
    import pyvirhost

    interval = FLEETS[5000]
    with fleet(5000) as (daemons, hosts):
        pyvirhost.poll_once([daemons[0].test_uri])  # loads what is loaded once
        before = resident()
        with pyvirhost.Poller(
                hosts, interval=interval, fields=connections.FIELDS) as poller:
            take(poller, interval * 3)
            rows = watched(poller, 5000, seconds)
            gc.collect()
            rows.append((REMOTE_MEMORY, OURS, "byte", [(resident() - before) / 5000]))
            for daemon in daemons:
                daemon.process.kill()
            rows.append((LOST, OURS, "second", [until_all(poller, hosts, lost=True)]))
            for daemon in daemons:
                daemon.process.wait()
                daemon.start()
            rows.append((BACK, OURS, "second", [until_all(poller, hosts, lost=False)]))
    return rows


def until_all(poller, hosts, *, lost):
    """Return after how many seconds all hosts have a sample with an error, or without one."""
    begin = clock()
    waited_for = set(hosts)
    for sample in poller:
        if (sample.error is not None) == lost:
            waited_for.discard(sample.host)
        if not waited_for:
            break
        demand(clock() < begin + 120, f"{len(waited_for)} hosts are missing")
    return clock() - begin


PARTS = {"in_process": 15, "one_daemon": 30, "some_hang": 20, "memory": 60,
         "thousand": 30, "five_thousand": 30}


def measure(which, seconds):
    """Measure one of the parts for so many seconds."""
    return globals()[which](seconds)


if __name__ == "__main__":
    worker.answer(measure)

"""What polling many hosts costs, and whether hosts that hang delay the others.

    python benchmarks/poller.py [--quick]

Its daemons are private ones, as the tests have them. Other load on the machine shows in all figures
but the processor's time.
"""

import argparse
import collections
import contextlib
import gc
import itertools
import os
import platform
import signal
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from daemon import Daemon

import pyvirhost

HERE = "test:///default"
INTERVAL = 5


def take(poller, seconds):
    """Return the samples of the next so many seconds."""
    samples = []
    end = time.monotonic() + seconds
    for sample in poller:
        samples.append(sample)
        if time.monotonic() > end:
            return samples
    raise AssertionError("the poller has stopped")


def drain(poller, seconds):
    """Take the samples of the next so many seconds and return how many they were."""
    end = time.monotonic() + seconds
    for count, _ in enumerate(poller, 1):
        if time.monotonic() > end:
            return count
    raise AssertionError("the poller has stopped")


def settle(poller, intervals=2.5):
    """Let every host be connected."""
    take(poller, INTERVAL * intervals)


def percentile(values, percent):
    """Return the value that so many percent of them do not exceed."""
    return statistics.quantiles(values, n=100)[percent - 1]


def lateness(samples):
    """Return, in seconds, how far from an interval's end each host's next reading began."""
    times = collections.defaultdict(list)
    for sample in samples:
        times[sample.host].append(sample.started_at)
    return [abs(later - earlier - INTERVAL) for starts in times.values()
            for earlier, later in itertools.pairwise(starts)]


def resident():
    """Return this process's memory in KiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def show(what, figure, bound, good):
    """Print a figure and return whether it is good."""
    print(f"{what:58} {figure:>22}  {'ok' if good else 'MISSED':6}  ({bound})", flush=True)
    return good


def many_in_process(seconds):
    """Poll 1,000 hosts of the test driver."""
    hosts = {f"host{number}": HERE for number in range(1000)}
    with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
        settle(poller, 1.5)
        began, used = time.monotonic(), time.process_time()
        samples = take(poller, seconds)
        share = (time.process_time() - used) / (time.monotonic() - began)
        skipped = sum(poller.overruns.values()) + poller.dropped
    show("1,000 hosts in this process every 5 s: skipped or dropped",
         f"{skipped} of {len(samples)}", "0", skipped == 0)
    return show("1,000 hosts in this process every 5 s: of one core",
                f"{share:.1%}", "10 % at most", share <= 0.1)


def one_daemon(seconds):
    """Poll one daemon over 200 connections."""
    with Daemon(settings="max_clients = 500\nmax_anonymous_clients = 500\n") as daemon:
        hosts = {f"host{number}": daemon.test_uri for number in range(200)}
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            settle(poller)
            samples = take(poller, seconds)
            lost = sum(sample.error is not None for sample in samples)
            late = percentile(lateness(samples), 99)
            seen = len({sample.host for sample in samples})
    show(f"200 connections to one daemon for {seconds} s: p99 lateness",
         f"{late * 1000:.1f} ms", "500 ms at most", late <= 0.5)
    return show(f"200 connections to one daemon for {seconds} s: lost",
                f"{lost} of {seen}", "0 of 200", lost == 0 and seen == 200)


def some_hang(seconds):
    """Poll 200 daemons of which 20 are stopped."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(Daemon()) for _ in range(200)]
        hosts = {f"host{number}": daemon.test_uri for number, daemon in enumerate(daemons)}
        hung = {f"host{number}" for number in range(0, 200, 10)}
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            settle(poller)
            before = lateness(take(poller, seconds))
            for number in range(0, 200, 10):
                daemons[number].process.send_signal(signal.SIGSTOP)
            try:
                samples = take(poller, seconds)
            finally:
                for number in range(0, 200, 10):
                    daemons[number].process.send_signal(signal.SIGCONT)
            well = [sample for sample in samples if sample.host not in hung]
            errors = {sample.host for sample in samples if sample.error is not None}
            later = take(poller, 10)
            back = {sample.host for sample in later if sample.snapshot} >= hung
    late = percentile(lateness(well), 99)
    show("200 daemons, none stopped: p99 lateness",
         f"{percentile(before, 99) * 1000:.1f} ms", "for comparison", True)
    show("200 daemons, 20 stopped: hosts with errors",
         str(len(errors)), "those 20", errors == hung)
    show("200 daemons, 20 stopped, then not: all are back", str(back), "True", back)
    return show("200 daemons, 20 stopped: p99 lateness of the others",
                f"{late * 1000:.1f} ms", "500 ms at most", late <= 0.5)


def memory(seconds):
    """Poll as fast as makes a leak of a sample's size show."""
    with Daemon(settings="max_clients = 500\nmax_anonymous_clients = 500\n") as daemon:
        hosts = {f"host{number}": HERE for number in range(950)}
        hosts |= {f"remote{number}": daemon.qemu_uri for number in range(50)}
        with pyvirhost.Poller(hosts, interval=INTERVAL) as poller:
            settle(poller, 4)
            readings = []
            polled = 0
            for _ in range(10):
                readings.append(resident())
                polled += drain(poller, seconds / 10)
            readings.append(resident())
    growth = readings[-1] - readings[len(readings) // 2]
    print("  KiB resident:", *readings)
    return show(f"{polled} samples of 1,000 hosts in {seconds} s: growth, second half",
                f"{growth} KiB", "500 KiB at most", growth <= 500)


def main():
    """Measure all, or those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute each at the most")
    parser.add_argument("--only", action="append", help="one of the figures, by function")
    options = parser.parse_args()
    parts = {"many_in_process": 15 if options.quick else 60, "one_daemon": 60,
             "some_hang": 20 if options.quick else 60, "memory": 60 if options.quick else 600}
    print(f"Python {platform.python_version()}, libvirt {pyvirhost.lib_version()}, "
          f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", flush=True)
    good = [globals()[name](seconds) for name, seconds in parts.items()
            if options.only is None or name in options.only]
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    sys.exit(0 if all(good) else 1)


main()

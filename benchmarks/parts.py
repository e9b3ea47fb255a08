"""The parts of the suite. Each is measured on its own, with a daemon of its own if it needs one."""

import os
import sys
from functools import partial

from daemon import Daemon

from benchmarks import (
    OURS,
    THEIRS,
    busy,
    calls,
    connections,
    cores,
    memory,
    poller,
    round_trips,
    scale,
    start,
    throughput,
)
from benchmarks.compiled import compile_library, compile_program
from benchmarks.worker import ask

IN_PROCESS = "test:///default"
# A daemon that lets a thousand connections in; each occupies a few files in it, too.
MANY = """\
max_clients = 5000
max_anonymous_clients = 5000
"""


def all_parts(folder, quick, free_threaded):
    """Return by name, in their order, functions that measure and yield rows for `Samples.add`.

    What is compiled for them goes into `folder`.
    """
    library = str(compile_library("twin", folder))
    sixteen = compile_library("sixteen_cpus", folder)
    program = str(compile_program("start", folder))
    processes = 1 if quick else 3

    def calls_in_process(place, preload=None):
        for _ in range(1 if quick else 5):
            # Batches so short that on a busy machine, too, most of them run uninterrupted.
            yield from ask("calls", preload=preload, place=place, uri=IN_PROCESS, library=library,
                           rounds=120, batch=0.0004)

    def calls_over_socket():
        with Daemon() as daemon:
            for _ in range(1 if quick else 5):
                yield from ask("calls", place="unix socket", uri=daemon.qemu_uri, library=library,
                               rounds=20, batch=0.01)

    def beside_busy():
        with Daemon() as daemon:
            for _ in range(processes):
                yield from ask("busy", uri=daemon.qemu_uri, library=library,
                               rounds=3 if quick else 10)

    def threads_over_socket():
        with Daemon() as daemon:
            for _ in range(processes):
                yield from ask("throughput", uri=daemon.qemu_uri, library=library,
                               rounds=3 if quick else 6, batch=0.1)

    def threads_in_process(python):
        for _ in range(processes):
            yield from ask("cores", python=python, library=library, rounds=3 if quick else 6,
                           batch=0.1)

    def kept():
        with Daemon() as daemon:
            for _ in range(processes):
                for contestant in (OURS, THEIRS):
                    yield from ask("memory", environment=memory.ENVIRONMENT, contestant=contestant,
                                   uri=daemon.qemu_uri)

    def trips(names, privileged=False):
        with Daemon(privileged=privileged) as daemon:
            yield from ask("round_trips", socket=str(daemon.socket), names=names,
                           path="system" if privileged else "session")

    def among_many(place, count):
        with Daemon(settings=MANY) as daemon:
            for contestant in (OURS, THEIRS):
                yield from ask("scale", contestant=contestant, place=place, count=count,
                               uri=IN_PROCESS if place == "in process" else daemon.qemu_uri,
                               sweeps=3 if quick else 10)

    def among_probed(count, loop=True):
        # In turns, since what else the machine does is in the figures.
        for _ in range(1 if quick or count > 1000 else 2):
            for contestant in (OURS, THEIRS) if loop and count <= 1000 else (OURS,):
                yield from ask("connections", contestant=contestant, count=count, loop=loop,
                               seconds=5 if quick else 10)

    parts = {
        calls.part("in process"): partial(calls_in_process, "in process"),
        calls.part("16 CPUs"): partial(calls_in_process, "16 CPUs", sixteen),
        calls.part("unix socket"): calls_over_socket,
        busy.PART: beside_busy,
        start.PART: partial(start.measure, program, 10 if quick else 40),
        throughput.PART: threads_over_socket,
        cores.part(cores.WITH): partial(threads_in_process, sys.executable),
    }
    if free_threaded:
        parts[cores.part(cores.WITHOUT)] = partial(threads_in_process, free_threaded)
    parts[memory.PART] = kept
    parts[round_trips.PART] = partial(trips, round_trips.READ)
    if os.geteuid() == 0:
        parts[round_trips.SETTING] = partial(trips, (round_trips.SET,), privileged=True)
    for place in scale.PLACES:
        for count in scale.COUNTS[:-1] if quick else scale.COUNTS:
            parts[scale.part(count, place)] = partial(among_many, place, count)
    counts = connections.COUNTS if quick else (*connections.COUNTS, connections.MANY)
    for count in counts:
        parts[connections.part(count)] = partial(among_probed, count)
    parts[connections.part(10, loop=False)] = partial(among_probed, 10, loop=False)
    def a_thousand(seconds):
        for which in ("thousand", "pool"):
            yield from ask("poller", which=which, seconds=seconds)

    for which, seconds in poller.PARTS.items():
        if which == "in_process" or not quick:
            parts[poller.part(which)] = partial(a_thousand, seconds) if which == "thousand" else (
                partial(ask, "poller", which=which, seconds=seconds))
    return parts

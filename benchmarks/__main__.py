"""Measure everything, print it, keep it, draw it: ``make bench``."""

import argparse
import contextlib
import ctypes
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

from daemon import Daemon

from benchmarks import OURS, THEIRS, memory, pictures, scale, start, table
from benchmarks.compiled import compile_library, compile_program
from benchmarks.samples import Samples
from benchmarks.worker import ask

BEGIN = time.monotonic()
IN_PROCESS = "test:///default"
# A daemon that lets a thousand connections in; each occupies a few files in it, too.
MANY = """\
max_clients = 5000
max_anonymous_clients = 5000
"""


def arguments():
    """Return the command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in less than a minute")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"),
                        help="the file to keep all samples in")
    parser.add_argument("--compare", type=Path, metavar="EARLIER",
                        help="show what changed since that file was written")
    parser.add_argument("--free-threaded", metavar="PYTHON",
                        help="an interpreter without a GIL that has the package")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the README's there")
    return parser.parse_args()


def say(text):
    """Tell on stderr what is going on."""
    print(f"bench: {time.monotonic() - BEGIN:3.0f} s: {text}", file=sys.stderr, flush=True)


def measure(samples, folder, quick, free_threaded):
    """Measure everything that this machine can."""
    library = str(compile_library("twin", folder))
    sixteen = compile_library("sixteen_cpus", folder)
    program = str(compile_program("start", folder))
    processes = 1 if quick else 5

    with Daemon(settings=MANY) as daemon:
        host = daemon.qemu_uri
        say("calls and snapshots")
        # Batches so short that on a busy machine, too, most of them run uninterrupted.
        places = {"in process": (IN_PROCESS, None, 120, 0.0004),
                  "16 CPUs": (IN_PROCESS, sixteen, 120, 0.0004),
                  "unix socket": (host, None, 20, 0.01)}
        for _ in range(processes):
            for place, (uri, preload, rounds, batch) in places.items():
                samples.add(ask("calls", preload=preload, place=place, uri=uri, library=library,
                                rounds=rounds, batch=batch))
        say("beside a busy thread")
        for _ in range(1 if quick else 3):
            samples.add(ask("busy", uri=host, library=library, rounds=3 if quick else 10))
        say("starting")
        samples.add(start.measure(program, 10 if quick else 40))
        say("threads")
        for _ in range(1 if quick else 3):
            samples.add(ask("throughput", uri=host, library=library, rounds=3 if quick else 6,
                            batch=0.1))
            for python in filter(None, (sys.executable, free_threaded)):
                samples.add(ask("cores", python=python, library=library, rounds=3 if quick else 6,
                                batch=0.1))
        say("memory")
        for _ in range(1 if quick else 3):
            for contestant in (OURS, THEIRS):
                samples.add(ask("memory", environment=memory.ENVIRONMENT, contestant=contestant,
                                uri=host))
        say("round trips")
        privileged = os.geteuid() == 0
        with Daemon(privileged=True) if privileged else contextlib.nullcontext(daemon) as counted:
            samples.add(ask("round_trips", socket=str(counted.socket), privileged=privileged,
                            path="system" if privileged else "session"))
        say("scale")
        for place, uri in zip(scale.PLACES, (IN_PROCESS, host), strict=True):
            for count in scale.COUNTS[:-1] if quick else scale.COUNTS:
                for contestant in (OURS, THEIRS):
                    samples.add(ask("scale", contestant=contestant, uri=uri, place=place,
                                    count=count, sweeps=3 if quick else 10))


def about():
    """Return what the figures depend on."""
    version = ctypes.c_ulong()
    ctypes.CDLL("libvirt.so.0").virGetVersion(ctypes.byref(version), None, None)
    number = version.value
    return {"python": platform.python_version(), "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "libvirt": f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"}


def main():
    """Do what the command line says."""
    options = arguments()
    earlier = Samples.load(options.compare) if options.compare else None
    # Each connection has a few files, at both ends; the daemon inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    samples = Samples()
    samples.metadata = about()
    with tempfile.TemporaryDirectory(prefix="vh-") as folder:
        measure(samples, folder, options.quick, options.free_threaded)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    samples.save(options.output)
    print(table.figures(samples), table.scaling(samples), sep="\n\n")
    if earlier is not None:
        print(f"\n{table.comparison(earlier, samples)}")
    if options.pictures:
        pictures.draw(samples, options.pictures)
    say(f"all samples are in {options.output}")


main()

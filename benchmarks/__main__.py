"""Measure everything, print it, keep it, draw it: ``make bench``."""

import argparse
import ctypes
import os
import platform
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks import table
from benchmarks.parts import all_parts
from benchmarks.samples import Samples

BEGIN = time.monotonic()
LINES = 10  # of what a part failed with


def arguments():
    """Return the command line's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in about two minutes")
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


def measure(parts, samples):
    """Measure one part after another and return the names of those that failed.

    A part that fails has no samples at all.
    """
    failed = []
    for name, part in parts.items():
        say(name)
        try:
            samples.add(list(part()))
        except Exception as error:
            failed.append(name)
            why = "".join(traceback.format_exception_only(error)).strip().splitlines()
            say("\n    ".join([f"{name} failed:", *why[-LINES:]]))
    return failed


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
        failed = measure(all_parts(folder, options.quick, options.free_threaded), samples)
    print(table.figures(samples, failed), table.scaling(samples, failed), sep="\n\n")
    if earlier is not None:
        print(f"\n{table.comparison(earlier, samples)}")
    if samples.runs:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        samples.save(options.output)
        say(f"all samples are in {options.output}")
    if failed:
        sys.exit(f"bench: failed: {'; '.join(failed)}")
    if options.pictures:
        from benchmarks import pictures  # loads matplotlib, for nothing else

        pictures.draw(samples, options.pictures)


if __name__ == "__main__":
    main()

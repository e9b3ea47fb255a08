"""What a hot call costs beside libvirt's own work, in instructions: the same on any day.

valgrind's callgrind counts them, and what libvirt and everything under it executes is taken off, so
that neither libvirt's version nor the machine's load is in the numbers. CPython's part is: the turn
of the loop, the call, its allocations and the GIL.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import pyvirhost

FIELDS = "('node_info', 'cpu_stats', 'free_memory', 'cells_free_memory')"
# call -> instructions that it may take: a tenth more than the most that CPython 3.11, 3.12, 3.13
# and 3.13 without the GIL took
LIMITS = {
    "host.node_info()": 1250,
    "host.cpu_stats()": 2050,
    "host.cpu_stats(out=stats)": 1850,
    "host.free_memory()": 1200,
    "host.is_alive()": 970,
    "host.per_cpu_stats()": 4350,
    f"host.snapshot({FIELDS})": 7950,
    f"host.snapshot({FIELDS}, out=snapshot)": 7100,
}
TURNS = 100
# Each os.getppid() ends a file of callgrind's and begins another. The odd ones have what is done
# only the first time, by the interpreter too.
PROGRAM = f"""
import os, pyvirhost
host = pyvirhost.open("test:///default")
stats, snapshot = host.cpu_stats(), host.snapshot({FIELDS})
""" + "".join(f"""
def turns(host, stats, snapshot):
    for turn in range({TURNS}):
        {call}
turns(host, stats, snapshot)
os.getppid()
turns(host, stats, snapshot)
os.getppid()
""" for call in LIMITS)


def counted(path):
    """Return a file's instructions beside libvirt's, and how often each function was called."""
    total, inside = 0, 0
    calls = Counter()
    caller = callee = None
    called = False
    for line in path.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "ob":
            caller = callee = value
        elif key == "cob":
            callee = value
        elif key == "cfn":
            function = value
        elif key == "calls":
            calls[function] += int(value.split()[0])
            called = True
        elif called:
            # What the calls on the line before cost with all that they called.
            if is_libvirt(callee) and not is_libvirt(caller):
                inside += int(line.split()[1])
            callee, called = caller, False
        elif line.startswith("totals:"):
            total = int(line.split()[1])
    return total - inside, calls


def is_libvirt(file):
    return Path(file).name.startswith("libvirt.so")


def run_under_callgrind(program, out):
    package = Path(pyvirhost.__file__).parents[1]
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no",
         "--compress-pos=no", "--dump-before=getppid", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(package), "PYTHONHASHSEED": "0"},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """For each call the instructions of a turn, and the calls of each C function in all turns."""
    out = tmp_path_factory.mktemp("callgrind") / "out"
    run_under_callgrind(PROGRAM, out)
    found = {}
    for number, call in enumerate(LIMITS):
        instructions, calls = counted(out.with_name(f"out.{2 * number + 2}"))
        found[call] = instructions / TURNS, calls
    return found


@pytest.mark.parametrize("call", LIMITS)
def test_a_hot_call_adds_little_to_libvirts_own_work(counts, call):
    instructions, _ = counts[call]
    # Without a GIL objects have locks of their own.
    locks = 1.0 if getattr(sys, "_is_gil_enabled", lambda: True)() else 1.05
    assert 0 < instructions <= LIMITS[call] * locks


@pytest.mark.parametrize("call", LIMITS)
def test_a_hot_call_releases_the_gil_once(counts, call):
    _, calls = counts[call]
    assert calls["PyEval_SaveThread"] == calls["PyEval_RestoreThread"] == TURNS


# Of as many CPUs, all of them odd ones; what is done first of all is in none of the files but one.
CPUS = 250, 250, 4000
PER_CPU = f"""
import gc, os
from pyvirhost import _results, rates
gc.disable()
for cpus in {CPUS}:
    table = _results._restore_stats_table(
        tuple(range(1, 2 * cpus, 2)), ("kernel", "user", "idle"), "ns", tuple(range(3 * cpus)))
    snapshot = _results._restore_snapshot(
        "", 8, 8, 0.0, 0, 0, None, (None, None, None, table, *[None] * 5), {{}})
    os.getppid()
    table.to_dict()
    os.getppid()
    dict(table.items())
    os.getppid()
    rates.rates(snapshot, snapshot)
    os.getppid()
"""


def test_what_is_done_for_each_cpu_takes_no_longer_for_one_of_many(tmp_path):
    run_under_callgrind(PER_CPU, tmp_path / "out")
    _, few, many = [
        [counted(tmp_path / f"out.{4 * turn + part}")[0] for part in (2, 3, 4)]
        for turn in range(len(CPUS))]
    for one, other in zip(few, many, strict=True):
        # 16 times as many, and of a search that halves what is left half as many steps more.
        assert 15 < other / one < 24

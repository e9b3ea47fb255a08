"""What make bench promises where a part of it fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The suite with these parts in place of its own
SUITE = """\
from benchmarks import OURS, THEIRS, __main__, busy, memory, round_trips, scale, start
from benchmarks.worker import ask

def measures():
    for contestant in (OURS, THEIRS):
        yield memory.READING, contestant, "byte", [1024]

def raises():
    yield busy.reading(6, True), OURS, "second", [1.0]
    raise OSError("no such thing here")

def interrupted():
    raise KeyboardInterrupt

dies = lambda: ask("nothing")
{parts}
__main__.all_parts = lambda *_: parts
__main__.main()
"""

# All parts that there can be, and those that the tables have rows of
PARTS = """\
import sys
from benchmarks import figures, parts, scale
shown = {row.part for row in figures.ROWS}
shown |= {scale.part(count, place) for count in scale.COUNTS for place in scale.PLACES}
if sys.argv[2] != "0":
    shown.remove(figures.round_trips.SETTING)
print(*shown.symmetric_difference(parts.all_parts(sys.argv[1], False, "python3.13t")))
"""


def python(text, *arguments):
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")})


@pytest.fixture
def bench(tmp_path):
    """A function that runs the suite with the given parts, and the file it keeps samples in."""
    def bench(parts):
        return python(SUITE.format(parts=f"parts = {parts}"), "--output", bench.output,  # type: ignore[attr-defined]
                      "--pictures", tmp_path)

    bench.output = tmp_path / "bench.json"  # type: ignore[attr-defined]
    return bench


def rows_of(table):
    """Return the rows by their first cell, without the bounds to reach."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {first: rest[:5] for first, *rest in cells}


def test_a_part_that_fails_costs_only_its_own_rows(bench):
    result = bench("{busy.PART: raises, round_trips.PART: dies, scale.part(10, 'in process'): dies,"
                   " memory.PART: measures}")

    rows = rows_of(result.stdout)
    assert rows["6 readings beside a busy thread"] == ["failed", *"----"]
    assert rows["round trips: cpu_stats"] == ["failed", *"----"]
    assert rows["10, in process"] == ["failed", *"----"]
    assert rows["import, open, node_info: whole process"] == ["not measured", *"----"]
    assert rows["1,000 snapshots kept"] == ["1.00 KiB", "1.00 KiB", "-", "1.00", "-"]
    kept = json.loads(bench.output.read_text())["benchmarks"]
    assert {each["metadata"]["name"] for each in kept} == {
        "pyvirhost: 1,000 snapshots kept", "libvirt-python: 1,000 snapshots kept"}
    assert "beside a busy thread failed:\n    OSError: no such thing here\n" in result.stderr
    assert "No module named benchmarks.nothing" in result.stderr
    assert "round trips failed:\n    subprocess.CalledProcessError: " in result.stderr
    assert result.stderr.endswith(
        "bench: failed: beside a busy thread; round trips; scale (10, in process)\n")
    assert result.returncode == 1


def test_every_row_is_some_parts(tmp_path):
    result = python(PARTS, tmp_path, str(os.geteuid()))

    assert (result.stdout, result.stderr) == ("\n", "")


def test_a_suite_of_which_all_parts_fail_says_so(bench):
    result = bench("{busy.PART: raises}")

    assert rows_of(result.stdout)["6 readings beside a busy thread"] == ["failed", *"----"]
    assert result.stderr.endswith("bench: failed: beside a busy thread\n")
    assert not bench.output.exists()
    assert result.returncode == 1


def test_an_interruption_ends_the_whole_suite(bench):
    result = bench("{start.PART: interrupted, memory.PART: measures}")

    assert result.stdout == ""
    assert " s: starting\n" in result.stderr
    assert " s: memory\n" not in result.stderr
    assert result.returncode == -signal.SIGINT

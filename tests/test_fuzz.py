"""Each part of the fuzzer for some seconds, always with the same seed; `make fuzz` takes others."""

import contextlib
import os
import random
import subprocess
import sys

import pytest
from fuzz import __main__ as fuzz
from fuzz import odd

SECONDS = 3


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fuzz", "--seed", "1", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace")


@pytest.mark.parametrize("part", fuzz.PARTS)
def test_nothing_is_found(part):
    done = run("--only", part, "--seconds", str(SECONDS))
    print(done.stdout)
    assert done.returncode == 0
    assert "nothing found" in done.stdout


# ---- what the fuzzer is to find, done by a part that is made for it ----

# What a step does: its name, and what is then said of it.
FAULTS = {
    "die": ("os.kill(os.getpid(), 11)", "dies of SIGSEGV at step 3"),
    "raise what is not documented": ("raise SystemError('lost')", "fails at step 3"),
    "raise where nobody can be told": ("Unheard()", "nobody could be told of"),
    "keep a descriptor": ("kept.append(os.dup(0))", "descriptors grow"),
    "keep memory": ("kept.append(bytearray(10_000))", "memory grows"),
    "keep a connection": ("kept.append(pyvirhost.open('test:///default'))", "connections grow"),
    "keep a thread": ("threading.Thread(target=threading.Event().wait, daemon=True).start()",
                      "threads grow"),
    "write into a byte": ("ctypes.memset(id(b'x') + bytes.__basicsize__ - 1, 0, 1)",
                          "a byte is another one"),
    "hang": ("time.sleep(60)", "hangs for 1 s at step 3"),
}
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    FAULTS = {name: fault for name, fault in FAULTS.items() if not name.startswith("keep")}
PART = """
import contextlib, ctypes, os, threading, time
import pyvirhost

kept, count = [], [0]

class Unheard:
    def __del__(self):
        raise ValueError("unheard")

def step(random):
    count[0] += 1
    time.sleep(0.001)
    if count[0] > 3:
        {fault}

@contextlib.contextmanager
def prepare():
    yield step
"""


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_to_be_found_is_found(tmp_path, name):
    fault, said = FAULTS[name]
    (tmp_path / "planted.py").write_text(PART.format(fault=fault))
    program = tmp_path / "run.py"
    program.write_text(f"""
import sys
import fuzz
from fuzz import __main__ as main
fuzz.__path__.append({str(tmp_path)!r})
main.PARTS = ("planted",)
main.HANGS = 1
main.PROGRAM = [sys.executable, __file__]
main.main()
""")
    done = subprocess.run(
        [sys.executable, program, "--only", "planted", "--seed", "1", "--seconds", "1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace")
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert "make fuzz PART=planted SEED=1 FIRST=" in done.stdout


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_seed_repeats_all():
    def kinds(seed):
        maker = odd.Odd(random.Random(seed))
        made = []
        for _ in range(300):
            with contextlib.suppress(odd.MischiefError):
                made.append(type.__repr__(type(maker.value())))
        return made

    assert kinds("a") == kinds("a")
    assert kinds("a") != kinds("b")

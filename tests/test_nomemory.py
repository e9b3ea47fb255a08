"""Any allocation of Python's may fail: a MemoryError, and nothing is broken, wrong or left open."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What makes allocations fail, compiled."""
    path = tmp_path_factory.mktemp("starve") / "starve.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
                    f"-I{sysconfig.get_path('include')}", str(TESTS / "starve.c"), "-o", str(path)],
                   check=True)
    return path


# With Python's own allocator a freed object is overwritten at once by what it keeps there.
def test_each_allocation_may_fail(daemon, library):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", TESTS / "starving.py", library, daemon.qemu_uri],
        # Nothing empty: that would be the folder that it runs in.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(
            filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))},
        stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr.endswith("all done\n")

"""The command line where something is missing: descriptors, threads, or a standard stream."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import COMMAND, ROOT
from daemon import Daemon, wait_until

# A command of each kind: a value, a table, the report, lines of JSON, help, and ones that fail.
KINDS = {
    "text": (0, ["hostname"]), "table": (0, ["freepages"]), "report": (0, ["report", "--json"]),
    "poll": (0, ["poll", "--once"]), "help": (0, ["--help"]), "version": (0, ["--version"]),
    "a host that fails": (1, ["-c", "test:///none", "freecell"]),
    "a wrong option": (2, ["nodeinfo", "--nope"]),
}


def run(words, shell="", uri="test:///default", timeout=60):
    """Run a command as a shell does that has changed its limits or streams."""
    done = subprocess.run(
        ["sh", "-c", f'{shell}\nexec "$@" {uri and "-c " + uri}', "sh", *COMMAND, *words],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done


def with_streams(words, streams):
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND, "-c", "test:///default", *words],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_closed_and_full_streams(kind):
    status, words = KINDS[kind]
    usual = with_streams(words, "")
    assert usual.returncode == status
    # What nobody can read or write is missing, and all else is as ever.
    without_input = with_streams(words, "<&-")
    assert (without_input.returncode, without_input.stderr) == (status, usual.stderr)
    assert bool(without_input.stdout) == bool(usual.stdout)
    for streams in ("2>&-", "2>/dev/full"):
        without_errors = with_streams(words, streams)
        assert without_errors.returncode == status
        assert without_errors.stderr == ""
        assert bool(without_errors.stdout) == bool(usual.stdout)
    for streams in (">&-", ">/dev/full"):
        without_output = with_streams(words, streams)
        assert without_output.stdout == ""
        # What can't be printed is a failure.
        fails = usual.stdout != "" and streams == ">/dev/full"
        assert without_output.returncode == (status or int(fails))
        assert ("cannot print: No space left" in without_output.stderr) == fails
        assert "Traceback" not in without_output.stderr
    assert with_streams(words, "<&- >&- 2>&-").returncode in (status, 1)


def test_no_connection_gets_the_number_of_a_standard_stream(daemon):
    # libxml2 writes its warnings there.
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "-c", daemon.test_uri, "poll",
         "--interval", "0.05"], cwd=ROOT)
    try:
        def files():
            found = {}
            for file in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    found[file.name] = os.readlink(file)
            return found

        connected = wait_until(
            lambda: next(filter(lambda found: "socket:" in str(found), [files()]), None),
            "the connection")
        assert [connected.get(number) for number in "012"] == [os.devnull] * 3
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.parametrize("words", [["hostname"], ["poll", "--once"]], ids=["hostname", "poll"])
def test_any_limit_of_descriptors(daemon, words):
    # Below six Python itself has none to load its modules by.
    outcomes = {}
    for limit in (6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 32, 64, 200):
        done = run(words, f"ulimit -n {limit}", daemon.test_uri)
        assert done.returncode in (0, 1), (limit, done)
        outcomes[limit] = done.returncode
        said = done.stderr + done.stdout
        assert done.returncode == 0 or re.search(r"ulimit -n|Too many open files", said), said
    assert list(outcomes.values()) == sorted(outcomes.values(), reverse=True)
    assert outcomes[6] == 1
    assert outcomes[64] == 0


def test_many_hosts_raise_the_soft_limit_of_descriptors(tmp_path):
    hosts = tmp_path / "hosts.toml"
    with Daemon(settings="max_clients = 100\n") as daemon:
        hosts.write_text("[hosts]\n" + "".join(
            f'h{number} = "{daemon.test_uri}"\n' for number in range(60)))
        for words in (["poll", "--once", "--interval", "60"], ["hostname"]):
            limits = "ulimit -S -n 60\nulimit -H -n 300"
            done = run(["--hosts", str(hosts), *words, "--parallel", "60"], limits, uri="")
            assert (done.returncode, done.stderr) == (0, ""), done


NO_THREADS = """
import runpy, sys, threading
threading.stack_size(2**47)  # which fits into no address space
sys.argv[0] = "pyvirhost"
runpy.run_module("pyvirhost", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("words", [["hostname"], ["report", "--json"], ["poll", "--once"],
                                   ["freecell", "-c", "test:///default"],
                                   ["hostname", "--timeout", "5"]])
def test_where_no_thread_can_be_started(daemon, words):
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS, "-c", daemon.test_uri, *words], capture_output=True,
        text=True, timeout=60, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done
    assert done.returncode == 0 or "RLIMIT_NPROC" in done.stderr + done.stdout

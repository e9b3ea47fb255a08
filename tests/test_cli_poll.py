"""The command poll: a line of JSON a sample, whole and at once, until it is told to end."""

import fcntl
import json
import os
import signal
import subprocess
import termios
import threading
import time
from contextlib import contextmanager
from itertools import islice

import pytest
from command import COMMAND, ROOT, run
from daemon import wait_until
from hostile import Answers
from test_values import MEMORY_PARAMETERS, NUMBERS, REASONS, TOLD

import pyvirhost

TEST = "test:///default"
FIELDS = ",".join(pyvirhost.ALL_FIELDS)
KIB = 1024
pytestmark = pytest.mark.usefixtures("plain_environment")


@contextmanager
def polling(*arguments, stdout=subprocess.PIPE):
    """The command poll, ten times a second."""
    process = subprocess.Popen(
        [*COMMAND, "poll", "--interval", "0.1", *arguments], cwd=ROOT, stdout=stdout,
        stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def once(*arguments, status=0):
    done = run("poll", "--once", *arguments)
    assert (done.returncode, done.stderr) == (status, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def polled_until(process, condition):
    """The first sample for which `condition` is true."""
    for line in islice(process.stdout, 300):
        if condition(sample := json.loads(line)):
            return sample
    return pytest.fail("waited for 300 samples in vain")


def test_a_sample_is_what_the_methods_return_in_bytes_seconds_and_ratios(connection):
    before = time.time()
    sample, = once("-c", TEST, "--fields", FIELDS)
    assert before - 0.001 <= sample.pop("started_at") <= time.time()
    assert sample.pop("duration_seconds") > 0
    errors = sample.pop("errors")
    assert errors.keys() == {"memory_stats", "per_cell_memory_stats", "memory_parameters"}
    assert {error["type"] for error in errors.values()} == {"NotSupportedError"}
    info, stats = connection.node_info(), connection.cpu_stats()
    pages = connection.free_pages([4, 8, 2048, KIB * KIB])
    seconds = {f"{mode}_seconds": spent / 1e9 for mode, spent in stats.items()}
    assert sample == {
        "host": TEST, "error": None, "rates": None,
        "node_info": {
            "model": info.model, "memory_bytes": info.memory * KIB, "cpus": 16, "mhz": 1400,
            "nodes": 2, "sockets": 2, "cores": 2, "threads": 2, "max_cpus": 16},
        "cpu_stats": seconds,
        "cpu_map": {"present": 8, "online": 3, "online_cpus": [0, 2, 4]},
        "per_cpu_stats": [{"cpu": cpu, **seconds} for cpu in (0, 2, 4)],
        "memory_stats": None, "per_cell_memory_stats": None, "memory_parameters": None,
        "free_memory_bytes": connection.free_memory(),
        "cells_free_memory": [
            {"cell": cell, "free_bytes": connection.cells_free_memory()[cell]}
            for cell in (0, 1)],
        "free_pages": [{"cell": cell, "free_pages": [
            {"page_size_bytes": size * KIB, "free": pages[cell, size]}
            for size in pages.page_sizes]} for cell in (0, 1)],
    }


def test_a_real_host_has_rates_and_memory(daemon, qemu):
    with polling("-c", daemon.qemu_uri, "--fields", FIELDS, "--timeout", "20") as process:
        first = json.loads(process.stdout.readline())
        second = polled_until(process, lambda sample: sample["rates"] and sample["rates"]["cpu"])
    assert first["rates"] is None
    assert first["errors"] == second["errors"] == {}
    for shares in (second["rates"]["cpu"], *second["rates"]["per_cpu"]):
        parts = [shares.get(f"{mode}_ratio") for mode in ("user", "kernel", "idle", "iowait")]
        if None not in parts:  # of a CPU for which no time has passed nothing is known
            assert sum(parts) + shares.get("intr_ratio", 0) == pytest.approx(1, abs=1e-5)
    assert [shares["cpu"] for shares in second["rates"]["per_cpu"]] == list(qemu.cpu_map())
    assert second["memory_stats"]["total_bytes"] == qemu.memory_stats().total * KIB
    assert second["memory_parameters"]["sleep_seconds"] == (
        qemu.memory_parameters()["shm_sleep_millisecs"] / 1000)


def test_only_the_fields_that_are_named_are_read():
    sample, = once("-c", TEST, "--fields", "free_memory,cpu_map")
    assert sample.keys() - {"host", "started_at", "duration_seconds", "error", "rates"} == {
        "free_memory_bytes", "cpu_map", "errors"}
    assert once("-c", TEST)[0].keys() >= {"node_info", "cpu_stats", "free_memory_bytes"}


def test_count_is_of_each_host(daemon, tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(f"""
        [hosts]
        one = "{TEST}"
        two = {{ uri = "{daemon.test_uri}", timeout = 3, keepalive = "off" }}
    """)
    done = run("--hosts", str(path), "poll", "--interval", "0.1", "--count", "3")
    assert (done.returncode, done.stderr) == (0, "")
    names = [json.loads(line)["host"] for line in done.stdout.splitlines()]
    assert sorted(names) == ["one"] * 3 + ["two"] * 3


def test_a_host_that_fails_has_its_error_and_the_others_their_samples(tmp_path):
    gone = f"test+unix:///default?socket={tmp_path}/gone"
    samples = {sample["host"]: sample for sample in once("-c", TEST, "-c", gone, status=1)}
    assert samples[TEST]["error"] is None
    failed = samples[gone]
    assert failed.keys() == {"host", "started_at", "duration_seconds", "error"}
    assert failed["error"]["type"] == "LibvirtError"
    assert str(tmp_path) in failed["error"]["message"]


def test_a_value_that_json_can_not_have_is_none_and_ends_nothing(daemon):
    fields = "memory_parameters,free_memory"
    with Answers(daemon) as answers:
        answers.replies = {MEMORY_PARAMETERS: [NUMBERS]}
        bad, good = sorted(once("-c", answers.qemu_uri, "-c", TEST, "--fields", fields),
                           key=lambda sample: sample["host"] == TEST)
    assert good["free_memory_bytes"] == 3 * KIB**2
    assert bad["error"] is None
    assert bad["memory_parameters"] == TOLD
    assert bad["errors"] == {
        f"memory_parameters.{key}": reason for key, reason in REASONS.items()}


def test_a_host_that_dies_and_comes_back(own_daemon):
    with polling("-c", own_daemon.test_uri, "-c", TEST) as process:
        def of_daemon(failed):
            return lambda sample: sample["host"] != TEST and (sample["error"] is not None) == failed

        polled_until(process, of_daemon(failed=False))
        own_daemon.process.kill()
        own_daemon.process.wait(10)
        polled_until(process, of_daemon(failed=True))
        polled_until(process, lambda sample: sample["host"] == TEST and sample["error"] is None)
        own_daemon.start()
        polled_until(process, of_daemon(failed=False))


def test_a_host_that_hangs_is_late_after_the_timeout(own_daemon):
    own_daemon.process.send_signal(signal.SIGSTOP)
    late, = once("-c", own_daemon.test_uri, "--timeout", "0.5", status=1)
    assert late["error"]["type"] == "OperationTimeoutError"
    assert late["duration_seconds"] >= 0.5


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_it_between_lines_also_when_hosts_hang(own_daemon, number):
    hanging = f"{own_daemon.test_uri}&"  # another URI for the same daemon
    with polling("-c", own_daemon.test_uri, "-c", TEST, "-c", hanging) as process:
        polled_until(process, lambda sample: sample["host"] == TEST)
        own_daemon.process.send_signal(signal.SIGSTOP)
        polled_until(process, lambda sample: sample["error"])
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == -number
    assert errors == ""
    assert rest == "" or rest.endswith("\n")
    for line in rest.splitlines():
        json.loads(line)


def test_a_signal_ends_it_also_when_nobody_reads():
    reader, writer = os.pipe()
    sizes = []

    def full():
        # Nothing has come for the time of many lines.
        sizes.append(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))
        return any(sizes[-1]) and sizes[-40:] == sizes[-1:] * 40

    try:
        with polling("-c", TEST, "--interval", "0.01", stdout=writer) as process:
            wait_until(full, "the pipe to fill")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM
    finally:
        os.close(reader)
        os.close(writer)


def test_a_reader_that_left_is_no_error():
    done = subprocess.run(
        ["sh", "-c", '{ "$@"; echo "status $?" >&2; } | head -n 2', "sh", *COMMAND, "-c", TEST,
         "poll", "--interval", "0.05"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.stdout.count("\n") == 2
    assert done.stderr == "status 0\n"


def test_a_line_comes_when_its_sample_does():
    with polling("-c", TEST, "--interval", "60", "-c", "test:///default?") as process:
        first = threading.Event()
        threading.Thread(target=lambda: process.stdout.readline() and first.set(),
                         daemon=True).start()
        # The second host's turn is 14 seconds after the first one's: nothing else pushes it out.
        assert first.wait(55)


def test_libvirt_chooses_without_a_uri(tmp_path):
    done = run("poll", "--once", environment={"LIBVIRT_DEFAULT_URI": TEST})
    assert json.loads(done.stdout)["host"] == "default"
    gone = f"test+unix:///default?socket={tmp_path}/gone"
    done = run("poll", "--once", environment={"LIBVIRT_DEFAULT_URI": gone})
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["error"]["message"].startswith("Failed to connect")


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--interval", "0"], "must be a number of seconds, at least 0.001"),
    (["--interval", "-1"], "--interval"),
    (["--interval", "nan"], "at least 0.001"),
    (["--count", "0"], "must be more than 0"),
    (["--count", "1", "--once"], "not allowed with argument"),
    (["--fields", "cpus"], "fields has 'cpus', which is none of node_info, cpu_stats"),
    (["--fields", ""], "fields has '', which is none of"),
    (["--watch", "1"], "poll repeats by itself: use --interval instead of --watch"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, problem):
    done = run("-c", TEST, "poll", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    line, = done.stderr.splitlines()
    assert problem in line

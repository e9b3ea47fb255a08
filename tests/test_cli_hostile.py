"""What the command line makes of servers that mean harm."""

import json
import re
import subprocess
import sys

import pytest
from command import TEST, data, pairs, run, text
from hostile import numbers, stats, typed_parameters
from hostile import text as xdr_text
from test_values import MEMORY_PARAMETERS, NUMBERS, REASONS, TOLD, double

from pyvirhost import Fleet, Sample
from pyvirhost.cli import once
from pyvirhost.cli.commands.command import Command
from pyvirhost.cli.parser import arguments_of
from pyvirhost.cli.poll import line_of
from pyvirhost.cli.sweep import Sweep
from pyvirhost.cli.top.model import State, Watched
from pyvirhost.cli.top.rows import host_row

CPU = "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"


pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture
def cpu_file(tmp_path):
    path = tmp_path / "cpu.xml"
    path.write_text(CPU)
    return str(path)


GET_CAPABILITIES, HOSTNAME, COMPARE_CPU, CPU_STATS, SEV_INFO = 7, 59, 158, 227, 395


def test_a_comparison_that_a_newer_libvirt_knows_is_unknown(answers, cpu_file):
    answers.replies = {COMPARE_CPU: [numbers(77)]}
    assert text(answers.qemu_uri, "cpu-compare", cpu_file, status=1) == "unknown"
    assert data(answers.qemu_uri, "cpu-compare", cpu_file, status=1) == {"host_cpu": "unknown"}


@pytest.mark.parametrize(("capabilities", "problem"), [
    ("<!DOCTYPE a [<!ENTITY b 'bb'>]><capabilities/>", "XML with a document type"),
    (f"<capabilities><host><cpu><model/>{'<a>' * 5000}{'</a>' * 5000}</cpu></host></capabilities>",
     "XML nested deeper than 100 elements"),
    ("<capabilities>", "XML that can't be read: no element found"),
], ids=["document type", "deep", "cut off"])
@pytest.mark.parametrize("command", ["cpu-baseline", "cpu-compare"])
def test_the_cpu_of_a_host_whose_capabilities_are_no_sound_xml(
        answers, test_uri, command, capabilities, problem):
    answers.replies = {GET_CAPABILITIES: [xdr_text(capabilities.encode())]}
    done = run("-c", answers.qemu_uri, "-c", test_uri, command)
    assert done.returncode == 1
    # One has an answer for all hosts together, and the other a table.
    told = done.stderr if command == "cpu-baseline" else done.stdout
    assert f"{answers.qemu_uri}" in told
    assert f"the server's answer makes no sense: {problem}" in told
    assert "Traceback" not in done.stderr


def test_a_field_that_a_newer_libvirt_adds_has_no_share(answers):
    fields = [(name, 5) for name in (b"user", b"idle", b"steal", b"\x1b[2J")]
    answers.replies = {CPU_STATS: [stats(count=4), stats(*fields), stats(
        *[(name, 5 + 10**9) for name, _ in fields])]}
    command = ["nodecpustats", "--percent", "--interval", "0.1"]
    found = data(answers.qemu_uri, *command)
    assert found.pop("interval_seconds") > 0
    assert found == {"busy_percent": 50, "user_percent": 50, "idle_percent": 50,
                     "steal_percent": None, "\x1b[2J_percent": None}
    answers.replies[CPU_STATS] = [stats(count=4), stats(*fields)]
    assert pairs(answers.qemu_uri, *command) == dict.fromkeys(
        ("Busy", "User", "Idle", "Steal", "\\x1b[2j"), "unknown")


def test_parameters_that_json_can_not_have_are_none_and_say_why(answers):
    answers.replies = {MEMORY_PARAMETERS: [NUMBERS]}
    assert data(answers.qemu_uri, "node-memory-tune") == {**TOLD, "errors": REASONS}
    shown = pairs(answers.qemu_uri, "node-memory-tune")
    assert shown == {"Pages to scan": "100", "Sleep": "unknown", "Full scans": "unknown",
                     "Pages shared": "unknown", "Merge across nodes": "unknown", "Mode": "fast"}
    change = ["node-memory-tune", "--shm-sleep-millisecs", "50", "--dry-run"]
    assert data(answers.qemu_uri, *change) == {
        "dry_run": True, "changes": {"sleep_seconds": {"before": None, "after": 0.05}},
        "errors": {"sleep_seconds": REASONS["sleep_seconds"]}}
    assert text(answers.qemu_uri, *change).split()[-4:] == ["Sleep", "unknown", "50", "ms"]
    answers.replies = {SEV_INFO: [typed_parameters(
        (b"cbitpos", 2, numbers(51)), (b"ratio", 5, double(float("nan"))))]}
    assert data(answers.qemu_uri, "nodesevinfo") == {
        "cbitpos": 51, "ratio": None, "errors": {"ratio": REASONS["full_scans"]}}
    assert pairs(answers.qemu_uri, "nodesevinfo") == {"cbitpos": "51", "ratio": "unknown"}


def test_a_parameter_that_is_called_changes_is_none(answers):
    answers.replies = {MEMORY_PARAMETERS: [typed_parameters((b"shm_changes", 2, numbers(5)))]}
    assert text(answers.qemu_uri, "node-memory-tune") == "5"


def test_no_host_speaks_for_another(answers, uri):
    names = (b"host", b"Host", b"error", b"started_at")
    answers.replies = {SEV_INFO: [typed_parameters(*[(name, 7, xdr_text(b"x")) for name in names])]}
    done = run("-c", answers.qemu_uri, "-c", uri, "nodesevinfo", "--json")
    assert [host["host"] for host in json.loads(done.stdout)] == [answers.qemu_uri, uri]
    _, *lines = run("-c", answers.qemu_uri, "-c", uri, "nodesevinfo").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [answers.qemu_uri, uri]


def test_a_text_without_end_is_cut(answers, test_uri):
    answers.replies = {HOSTNAME: [xdr_text(b"h" * (4 << 20))]}
    done = run("-c", answers.test_uri, "-c", test_uri, "hostname")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) < 1200
    assert text(answers.test_uri, "hostname") == f"{'h' * 1000}... (4,194,304 characters)"


def test_a_name_that_the_locale_lacks_is_printed_all_the_same(answers):
    answers.replies = {HOSTNAME: [xdr_text("\u0142".encode())]}
    done = run("-c", answers.test_uri, "hostname", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u0142\n", "")


# ---- what nobody has thought of -----------------------------------------------------------------

def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


BAD = {
    "not JSON": ({"x": float("nan")}, "--json", "ValueError"),
    "nested": ({"x": nested(100_000)}, "--json", "RecursionError"),
    "no row": (None, "--verbose", "AttributeError"),
}


@pytest.mark.parametrize(("bad", "option", "error"), BAD.values(), ids=BAD)
def test_what_becomes_of_an_answer_is_the_error_of_its_host_alone(bad, option, error, capsys):
    command = Command("x", "", "", rows=lambda data: {"X": str(data.get("x"))},
                      read=lambda connection, arguments: (
                          bad if connection.uri() == TEST else {"x": "fine"}))
    with Fleet([TEST, "test:///default?"]) as fleet:
        assert once(command, Sweep(fleet), arguments_of([option, "hostname"])) == 1
    printed = capsys.readouterr().out
    if option == "--json":
        failed, good = json.loads(printed)
        assert failed["error"]["type"] == error
        assert good == {"host": "test:///default?", "x": "fine"}
    else:
        _, failed, good = printed.splitlines()
        assert "has no attribute 'get'" in failed
        assert good.split() == ["test:///default?", "fine"]


def test_a_sample_of_which_nothing_can_be_made_is_an_error():
    bad = Sample("bad", object(), None, None, 1.5, 0.25)
    text, error = line_of(bad)
    assert isinstance(error, AttributeError)
    assert json.loads(text) == {
        "host": "bad", "started_at": 1.5, "duration_seconds": 0.25,
        "error": {"type": "AttributeError", "message": str(error)}}
    host = Watched("bad", 0.0)
    host.take(bad, 0.0)
    host.take(bad, 0.0)
    assert host.state(0.0, 1.0) is State.FAILED
    assert "has no attribute" in host_row(host, 0.0, 1.0).message
    assert list(host.history) == [None]


@pytest.mark.parametrize("command", [["hostname"], ["poll"], ["poll", "--once"]], ids=" ".join)
def test_where_there_is_no_room_for_a_thread_one_line_says_so(command):
    # No stack of that size can be had.
    program = ("import sys, threading; threading.stack_size(1 << 46); "
               "from pyvirhost.cli import main; sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", program, "-c", TEST, *command],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pyvirhost: can't start new thread: raise the limit .*\n", done.stderr)

"""Terminals, pipes and people, and standard streams that take nothing."""

import json
import os
import re
import subprocess

import pytest
from command import (
    COLOUR,
    COMMAND,
    ROOT,
    TEST,
    Terminal,
    on_terminal,
    pairs,
    run,
    silent_servers,
    text,
)

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_colours_are_for_terminals_that_want_them(tmp_path):
    hosts = ("-c", TEST, "-c", f"test+unix:///default?socket={tmp_path}/gone")
    assert COLOUR.search(on_terminal(*hosts, "freecell", status=1))
    assert not COLOUR.search(on_terminal(*hosts, "freecell", status=1, NO_COLOR="1"))
    assert "\x1b" not in run(*hosts, "freecell").stdout


def test_what_a_host_says_does_not_drive_the_terminal(tmp_path):
    node = tmp_path / "node.xml"
    node.write_text("<node><cpu><model>evil\u202emodel</model><nodes>1</nodes><sockets>1</sockets>"
                    "<cores>1</cores><threads>1</threads></cpu></node>")
    uri = f"test://{node}"
    assert pairs(uri, "nodeinfo")["Model"] == "evil\\u202emodel"
    for command in (["nodeinfo"], ["capabilities"]):
        printed = on_terminal("-c", TEST, "-c", uri, *command, NO_COLOR="1")
        assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", printed)  # but for bold
        assert "\u202e" not in printed


def test_xml_is_only_for_a_terminal_made_harmless(proxy):
    get_capabilities = 7

    def turn_around(procedure, body):
        return body.replace(b"<capabilities>", b"<capab\xe2\x80\xaeties>") if (
            procedure == get_capabilities) else body

    proxy.change_reply = turn_around
    assert on_terminal("-c", proxy.qemu_uri, "capabilities").startswith("<capab\\u202eties>\n\n")
    assert text(proxy.qemu_uri, "capabilities").startswith("<capab\u202eties>\n\n")


@pytest.mark.parametrize("command", ["nodeinfo", "capabilities", "cpu-models"])
def test_a_reader_that_left_is_no_error(command):
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *COMMAND, "-c", TEST, command],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["hostname"], ["hostname", "--json"]], ids=str)
def test_standard_output_that_is_closed_is_no_error(arguments):
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "-c", TEST, *arguments],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_watching_ends_when_its_reader_has_left():
    done = subprocess.run(
        ["sh", "-c", '{ "$@"; echo "status $?" >&2; } | head -n 3', "sh", *COMMAND, "-c", TEST,
         "--watch", "0.05", "--json", "freecell"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.stdout.count("\n") == 3
    assert done.stderr == "status 0\n"


def test_a_full_disk_is_one_line_and_status_1():
    with open("/dev/full", "w") as stdout:
        done = subprocess.run(
            [*COMMAND, "-c", TEST, "capabilities"], stdout=stdout, stderr=subprocess.PIPE,
            text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"pyvirhost: cannot print: [^\n]+\n", done.stderr)


def test_a_long_sweep_has_a_progress_bar_on_the_terminal_only(tmp_path):
    with silent_servers(tmp_path, 1) as [(silent, _)], (tmp_path / "out").open("w+") as out:
        with Terminal("-c", silent, "-c", TEST, "--timeout", "2", "freecell",
                      stdout=out) as terminal:
            status, printed = terminal.end()
        assert status == 1
        assert "hosts" in printed
        assert "50%" in printed
        assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")  # the cursor is back
        assert "\x1b" not in (tmp_path / "out").read_text()
    assert "\x1b[?25" not in on_terminal("-c", TEST, "-c", "test:///default?", "hostname")


def test_verbose_tells_how_long_each_host_took(daemon, tmp_path):
    gone = f"test+unix:///default?socket={tmp_path}/gone"
    done = run("-c", TEST, "-c", gone, "--verbose", "hostname")
    lines = sorted(done.stderr.splitlines())
    assert re.fullmatch(rf"{re.escape(gone)}: [\d.]+ ms; LibvirtError of virConnectOpenAuth, code "
                        r"<ErrorCode.SYSTEM_ERROR: 38>, domain \S+ \d+>: Failed.*",
                        lines[0])
    assert re.fullmatch(rf"{TEST}: [\d.]+ ms", lines[1])


# ---- standard streams that are closed, full, or without a reader ---------------------------------

GONE = "test+unix:///default?socket=/no/such"
CASES = {
    "one": ["-c", TEST, "hostname"],
    "one fails": ["-c", GONE, "hostname"],
    "one fails, JSON": ["-c", GONE, "hostname", "--json"],
    "several": ["-c", TEST, "-c", GONE, "hostname"],
    "several, XML": ["-c", TEST, "-c", GONE, "capabilities"],
    "verbose": ["-c", TEST, "-c", GONE, "hostname", "--json", "--verbose"],
    "report": ["-c", TEST],
    "poll": ["-c", TEST, "-c", GONE, "poll", "--once"],
    "help": ["freecell", "--help"],
    "version": ["--version"],
    "completion": ["--print-completion", "bash"],
    "wrong": ["--no-such-option"],
    "unasked": ["-c", TEST, "nodesuspend", "mem", "60"],
}


def redirected(arguments, how):
    """The command after a shell has redirected it."""
    return subprocess.run(["sh", "-c", f'"$@" {how}', "sh", *COMMAND, *arguments],
                          capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def comparable(text):
    """A text without what is another one in each run."""
    return re.sub(r'"(started_at|duration_seconds)": [\d.]+|[\d.]+ ms', "", text).splitlines()


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_standard_streams_that_take_nothing_change_no_answer(arguments):
    normal = run(*arguments)
    out, errors = sorted(comparable(normal.stdout)), sorted(comparable(normal.stderr))
    for how in ("2>&-", "2>/dev/full", "<&-", "<&- 2>&-"):
        done = redirected(arguments, how)
        assert (done.returncode, sorted(comparable(done.stdout))) == (normal.returncode, out), how
        assert sorted(comparable(done.stderr)) == ([] if "2" in how else errors), how
    for how in (">&-", "<&- >&-"):
        done = redirected(arguments, how)
        assert (done.returncode, done.stdout) == (normal.returncode, ""), how
        assert sorted(comparable(done.stderr)) == errors, how
    assert redirected(arguments, "<&- >&- 2>&-").returncode == normal.returncode
    done = redirected(arguments, ">/dev/full")
    if normal.stdout:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "pyvirhost: cannot print: No space left on device"
        assert redirected(arguments, ">/dev/full 2>/dev/full").returncode == 1
    else:
        assert (done.returncode, sorted(comparable(done.stderr))) == (normal.returncode, errors)


def test_standard_error_without_a_reader_changes_nothing():
    unread, written = os.pipe()
    os.close(unread)
    with open(written, "wb") as stderr:
        done = subprocess.run([*COMMAND, *CASES["verbose"]], stdout=subprocess.PIPE, stderr=stderr,
                              text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert [host["host"] for host in json.loads(done.stdout)] == [TEST, GONE]


def test_no_connection_takes_the_place_of_a_stream_that_is_closed(test_uri):
    """Whoever printed to it would print to the server."""
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND, "-c", test_uri, "--watch", "0.1",
         "--json", "hostname"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        json.loads(process.stdout.readline())
        assert {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 2)} == {"/dev/null"}
    finally:
        process.kill()
        process.communicate()

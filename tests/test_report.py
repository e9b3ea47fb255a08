"""The host report and the command that prints it."""

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from command import COLOUR, COMMAND, ROOT, on_terminal, run
from hostile import Answers, longs, node_info, numbers
from hostile import text as xdr_text
from test_values import MEMORY_PARAMETERS, NUMBERS, REASONS, TOLD

import pyvirhost
from pyvirhost.cli.report import collect, sections
from pyvirhost.cli.text import duration, print_sections, ranges, size

TEST = "test:///default"

# The test driver has a security model since libvirt 7.5.
SECURITY_MODEL = {"model": "testSecurity", "doi": ""} if (
    pyvirhost.lib_version() >= (7, 5, 0)) else None
NOT_SUPPORTED = {
    "memory.stats": "virNodeGetMemoryStats",
    "cells.stats": "virNodeGetMemoryStats",
    "ksm": "virNodeGetMemoryParameters",
} | ({} if SECURITY_MODEL else {"security_model": "virNodeGetSecurityModel"})

# Every key that the report of the test driver has, and what its value is.
KEYS = {
    "identity": {
        "hostname": str, "uri": str, "driver": str, "hypervisor_version": str,
        "libvirt_version": str, "secure": bool, "encrypted": bool,
    },
    "node": {
        "model": str, "memory_bytes": int, "cpus": int, "mhz": int, "nodes": int, "sockets": int,
        "cores": int, "threads": int, "max_cpus": int,
    },
    "cpu_map": {"present": int, "online": int, "online_cpus": [int]},
    "cpu_time": {
        "total": {
            "user_seconds": float, "kernel_seconds": float, "idle_seconds": float,
            "iowait_seconds": float,
        },
        "per_cpu": [{
            "cpu": int, "user_seconds": float, "kernel_seconds": float, "idle_seconds": float,
            "iowait_seconds": float,
        }],
    },
    "memory": {"free_bytes": int, "stats": None},
    "cells": [{
        "cell": int, "free_bytes": int, "stats": None,
        "free_pages": [{"page_size_bytes": int, "free": int}],
    }],
    "ksm": None,
    "security_model": SECURITY_MODEL and {"model": str, "doi": str},  # type: ignore[dict-item]
    "errors": {place: {"type": str, "message": str} for place in NOT_SUPPORTED},
}
CPU_TIME = {
    "user_seconds": 9.7974, "kernel_seconds": 34678.7234, "idle_seconds": 87.2649,
    "iowait_seconds": 0.7636,
}
CELLS = [
    {"cell": 0, "free_bytes": 2097152, "stats": None, "free_pages": [
        {"page_size_bytes": 4096, "free": 19}, {"page_size_bytes": 8192, "free": 45},
        {"page_size_bytes": 2097152, "free": 97}, {"page_size_bytes": 1073741824, "free": 201}]},
    {"cell": 1, "free_bytes": 4194304, "stats": None, "free_pages": [
        {"page_size_bytes": 4096, "free": 409}, {"page_size_bytes": 8192, "free": 825},
        {"page_size_bytes": 2097152, "free": 1657}, {"page_size_bytes": 1073741824, "free": 3321}]},
]
pytestmark = pytest.mark.usefixtures("plain_environment")
BOX_DRAWING = re.compile("[\u2500-\u259f]")


def read(uri):
    with pyvirhost.open(uri, readonly=True) as connection:
        return collect(connection)


def shown(report):
    file = io.StringIO()
    print_sections(sections(report), file)
    return file.getvalue()


def without_newer(keys):
    """Leave out what newer libvirts than 9.0 add."""
    if isinstance(keys, dict):
        return {key: without_newer(value) for key, value in keys.items() if key != "guest_seconds"}
    if isinstance(keys, list):
        return [without_newer(value) for value in keys]
    return keys


def key_tree(value):
    if isinstance(value, dict):
        return {key: key_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        first, *others = map(key_tree, value)
        assert all(other == first for other in others)
        return [first]
    return None if value is None else type(value)


@pytest.fixture
def host(tmp_path):
    """Return a function that makes a host of the test driver and returns its URI."""
    def make(*, nodes=1, sockets=1, cores=1, threads=1, active=1, mhz=2000, model="x86_64",
             memory=8388608):
        path = tmp_path / "host.xml"
        path.write_text(
            f"<node><cpu><nodes>{nodes}</nodes><sockets>{sockets}</sockets><cores>{cores}</cores>"
            f"<threads>{threads}</threads><active>{active}</active><mhz>{mhz}</mhz>"
            f"<model>{model}</model></cpu><memory>{memory}</memory></node>")
        return f"test://{path}"
    return make


def busy_host(cpus):
    """Return the report of a host with everything, as JSON would bring it."""
    time = {"user_seconds": 3.6e6, "kernel_seconds": 864000.0, "idle_seconds": 4.1e6,
            "iowait_seconds": 76000.0, "guest_seconds": 1e6}
    report = read(TEST)
    report["cpu_map"] = {"present": cpus, "online": cpus - 1,
                         "online_cpus": [cpu for cpu in range(cpus) if cpu != 5]}
    report["cpu_time"] = {
        "total": {field: seconds * cpus for field, seconds in time.items()},
        "per_cpu": [{"cpu": cpu, **time} for cpu in report["cpu_map"]["online_cpus"]],
    }
    report["memory"] = {"free_bytes": 1 << 30, "stats": {
        "total_bytes": 3 << 30, "free_bytes": 1 << 30, "buffers_bytes": 0,
        "cached_bytes": 512 << 20}}
    report["cells"] = json.loads(json.dumps(CELLS))
    for cell in report["cells"]:
        cell["stats"] = {"total_bytes": 3 << 29, "free_bytes": cell["free_bytes"]}
    report["ksm"] = {
        "pages_to_scan": 100, "sleep_seconds": 0.02, "pages_shared": 1234567,
        "merge_across_nodes": True}
    report["security_model"] = {"model": "testSecurity", "doi": ""}
    report["errors"] = {}
    return json.loads(json.dumps(report))


# ---- what is read -------------------------------------------------------------------------------

def test_the_keys_are_these():
    assert key_tree(without_newer(read(TEST))) == KEYS


def test_the_values_are_in_bytes_and_seconds():
    report = without_newer(read(TEST))
    assert report["identity"]["uri"] == TEST
    assert report["identity"]["driver"] == "TEST"
    assert report["identity"]["hypervisor_version"] == "0.0.2"
    assert report["identity"]["libvirt_version"] == str(pyvirhost.lib_version())
    assert (report["identity"]["secure"], report["identity"]["encrypted"]) == (True, False)
    assert report["node"] == {
        "model": "i686", "memory_bytes": 3221225472, "cpus": 16, "mhz": 1400, "nodes": 2,
        "sockets": 2, "cores": 2, "threads": 2, "max_cpus": 16}
    assert report["cpu_map"] == {"present": 8, "online": 3, "online_cpus": [0, 2, 4]}
    assert report["cpu_time"] == {
        "total": CPU_TIME, "per_cpu": [{"cpu": cpu, **CPU_TIME} for cpu in (0, 2, 4)]}
    assert report["memory"]["free_bytes"] == 3145728
    for cell, known in zip(report["cells"], CELLS, strict=True):
        # Of free pages, libvirt 9.0 tells other numbers than 11.3.
        assert cell | {"free_pages": None} == known | {"free_pages": None}
        sizes = [pages["page_size_bytes"] for pages in known["free_pages"]]  # type: ignore[attr-defined]
        with pyvirhost.open(TEST) as connection:
            free = connection.free_pages([size // 1024 for size in sizes], 0, 2)
        assert cell["free_pages"] == [
            {"page_size_bytes": size, "free": free[cell["cell"], size // 1024]} for size in sizes]
    assert report["security_model"] == SECURITY_MODEL


def test_what_is_not_supported_is_none_and_says_so():
    report = read(TEST)
    assert report["ksm"] is report["memory"]["stats"] is None
    assert report["errors"] == {
        place: {
            "type": "NotSupportedError",
            "message": f"this function is not supported by the connection driver: {function}",
        }
        for place, function in NOT_SUPPORTED.items()
    }


def test_another_failure_does_not_fail_the_report_either(host):
    report = read(host(nodes=2))
    assert report["errors"]["cells.free_bytes"] == {
        "type": "InvalidArgumentError",
        "message": "invalid argument: Range exceeds available cells"}
    assert [cell["free_bytes"] for cell in report["cells"]] == [None, None]
    assert [len(cell["free_pages"]) for cell in report["cells"]] == [4, 4]
    assert "  Free memory  invalid argument: Range exceeds available cells\n" in shown(report)


def test_a_closed_connection_has_no_report():
    connection = pyvirhost.open(TEST, readonly=True)
    connection.close()
    with pytest.raises(pyvirhost.ConnectionClosedError):
        collect(connection)


@pytest.mark.parametrize(("layout", "cpus", "topology"), [
    ({}, 1, "1 node x 1 socket x 1 core x 1 thread, room for 1 CPU"),
    ({"nodes": 4, "cores": 32, "threads": 2, "active": 256}, 256,
     "4 nodes x 1 socket x 32 cores x 2 threads, room for 256 CPUs"),
    ({"nodes": 2, "cores": 4, "active": 3}, 3,
     "2 nodes x 1 socket x 4 cores x 1 thread, room for 8 CPUs"),
], ids=["1 CPU", "256 CPUs", "5 offline CPUs"])
def test_a_host_has_as_many_cpus_as_it_says(host, layout, cpus, topology):
    report = read(host(**layout))
    assert report["node"]["cpus"] == cpus
    assert report["node"]["memory_bytes"] == 8 << 30
    text = shown(report)
    assert f"  CPUs      {cpus} at 2000 MHz\n" in text
    assert f"  Topology  {topology}\n" in text
    assert "  Memory    8.0 GiB\n" in text


# ---- what is shown ------------------------------------------------------------------------------

def test_the_text_says_it_at_a_glance():
    report = busy_host(8)
    report["identity"]["hostname"] = "host"
    report["identity"]["libvirt_version"] = "9.0.0"
    assert shown(report) == """\
Identity
  Hostname            host
  URI                 test:///default
  Driver              TEST
  Hypervisor version  0.0.2
  libvirt version     9.0.0
  Secure              yes
  Encrypted           no

Node
  Model     i686
  Memory    3.0 GiB
  CPUs      16 at 1400 MHz
  Topology  2 nodes x 2 sockets x 2 cores x 2 threads, room for 16 CPUs

CPU map
  Present  8
  Online   7: 0-4,6-7
  Offline  1: 5

CPU time since boot
  CPU            User         Kernel            Idle         Iowait          Guest
  all  333.3 d  41.7%  80.0 d  10.0%  379.6 d  47.5%   7.0 d   0.9%  92.6 d  11.6%
    0   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    1   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    2   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    3   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    4   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    6   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%
    7   41.7 d  41.7%  10.0 d  10.0%   47.5 d  47.5%  21.1 h   0.9%  11.6 d  11.6%

Memory
  Free        1.0 GiB of 3.0 GiB (33.3%)
  Statistics  3.0 GiB total, 1.0 GiB free, 0 Bytes buffers, 512.0 MiB cached

NUMA cells
  Cell     Free    Total  Free 4 KiB pages  Free 8 KiB pages  Free 2 MiB pages  Free 1 GiB pages
     0  2.0 MiB  1.5 GiB                19                45                97               201
     1  4.0 MiB  1.5 GiB               409               825             1,657             3,321

KSM
  Pages to scan       100
  Sleep               20 ms
  Pages shared        1,234,567
  Merge across nodes  yes

Security model
  Model  testSecurity
  DOI    none
"""


def test_the_text_says_not_supported():
    text = shown(read(TEST))
    assert "\nKSM: not supported\n" in text
    assert text.count("\n  Statistics  not supported\n") == 2


class NoDriver:
    """Stands in for a driver that supports nothing, as none here is that poor."""

    def __getattr__(self, name):
        def refuse(*_):
            raise pyvirhost.NotSupportedError(f"no {name}")
        return refuse


def test_a_driver_that_supports_nothing_has_a_report():
    report = collect(NoDriver())
    identity = dict.fromkeys(KEYS["identity"])  # type: ignore[call-overload]
    places = [*(f"identity.{key}" for key in identity), "node", "cpu_map", "cpu_time.total",
              "cpu_time.per_cpu", "memory.free_bytes", "memory.stats", "cells", "ksm",
              "security_model"]
    errors = report.pop("errors")
    assert report == {
        "identity": identity, "node": None, "cpu_map": None,
        "cpu_time": {"total": None, "per_cpu": None},
        "memory": {"free_bytes": None, "stats": None}, "cells": None, "ksm": None,
        "security_model": None}
    assert sorted(errors) == sorted(places)
    assert errors["cells"] == {"type": "NotSupportedError", "message": "no cells_free_memory"}
    assert shown({**report, "errors": errors}).count("not supported") == len(places)


@pytest.fixture
def answers(daemon):
    with Answers(daemon) as answers:
        yield answers


@pytest.mark.parametrize("cells", [1025, 2**31, 2**32 - 1])
def test_a_host_that_says_to_have_more_cells_than_libvirt_carries(answers, cells):
    answers.replies = {101: [b""], 6: [node_info(nodes=cells)]}
    report = read(answers.qemu_uri)
    assert report["cells"] is None
    assert report["errors"] == {"cells": {
        "type": "LibvirtError",
        "message": "the server's answer makes no sense: more than 1024 NUMA cells"}}
    assert report["node"]["nodes"] == cells
    assert "\nNUMA cells: the server's answer makes no sense: more than" in shown(report)


def test_cells_are_those_that_were_read(answers):
    answers.replies = {101: [numbers(3) + longs(5, 6, 7)], 6: [node_info(nodes=2**32 - 1)]}
    assert [cell["free_bytes"] for cell in read(answers.qemu_uri)["cells"]] == [5, 6, 7]


def test_ksm_that_is_no_number_is_unknown_and_says_why(answers):
    answers.replies = {MEMORY_PARAMETERS: [NUMBERS]}
    done = run("-c", answers.qemu_uri, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ksm"] == TOLD
    assert report["errors"] == {f"ksm.{key}": reason for key, reason in REASONS.items()}
    text = shown(report)
    for line in ("Pages to scan       100", "Sleep               unknown",
                 "Merge across nodes  unknown", "Mode                fast"):
        assert f"\n  {line}\n" in text


def test_a_text_without_end_is_cut_and_the_report_goes_on(answers):
    get_hostname = 59
    answers.replies = {get_hostname: [xdr_text(b"h" * (4 << 20))]}
    done = run("-c", answers.qemu_uri)
    assert (done.returncode, done.stderr) == (0, "")
    line = f"  Hostname            {'h' * 1000}... (4,194,304 characters)\n"
    assert done.stdout.startswith(f"Identity\n{line}  URI ")
    assert len(max(done.stdout.splitlines(), key=len)) < 1100
    assert "\nSecurity model" in done.stdout
    # JSON has all of it.
    assert json.loads(run("-c", answers.qemu_uri, "--json").stdout)["identity"]["hostname"] == (
        "h" * (4 << 20))


def test_a_host_with_more_cells_than_one_answer_carries(open_node):
    report = collect(open_node("<cpu><nodes>600</nodes></cpu>"))
    assert len(report["cells"]) == 600
    assert "cells.free_pages" not in report["errors"]


def test_256_cpus_stay_readable():
    lines = shown(busy_host(256)).splitlines()
    assert "  Online   255: 0-4,6-255" in lines
    table = lines[lines.index("CPU time since boot") + 1:lines.index("Memory") - 1]
    assert len(table) == 257
    assert {len(line) for line in table} == {len(table[0])}
    assert len(table[0]) < 100


def test_long_lines_are_left_whole():
    report = busy_host(8192)
    report["cpu_map"]["online_cpus"] = list(range(0, 8192, 2))
    report["identity"]["hostname"] = "h" * 300
    lines = shown(report).splitlines()
    assert f"  Hostname            {'h' * 300}" in lines
    assert f"  Online   4096: {','.join(map(str, range(0, 8192, 2)))}" in lines


@pytest.mark.parametrize("name", ["[red]name[/red]", "[/]", "[link=x]", ":smile:", "a\\[b]"])
def test_what_a_host_says_is_not_markup(host, name):
    assert f"  Model     {name}\n" in shown(read(host(model=name)))
    report = busy_host(2)
    report["identity"]["hostname"] = name
    report["security_model"]["doi"] = name
    report["ksm"] = None
    report["errors"]["ksm"] = {"type": "LibvirtError", "message": name}
    text = shown(report)
    assert f"  Hostname            {name}\n" in text
    assert f"  DOI    {name}\n" in text
    assert f"\nKSM: {name}\n" in text


def test_what_a_host_says_does_not_reach_the_terminal():
    report = read(TEST)
    report["identity"]["hostname"] = "host\x1b[2J\x07\nKSM: no\u202e"
    text = shown(report)
    assert "  Hostname            host\\x1b[2J\\x07 KSM: no\\u202e\n" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0 ms"), (0.02, "20 ms"), (1, "1.0 s"), (59, "59.0 s"), (90, "1.5 min"),
    (34678.7, "9.6 h"), (86400, "1.0 d"), (1e11, "1,157,407.4 d"),
])
def test_a_time_is_in_its_largest_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("numbers", "text"), [
    ([], ""), ([0], "0"), ([0, 1], "0-1"), ([0, 2], "0,2"), ([0, 1, 2, 3, 8], "0-3,8"),
    (range(256), "0-255"),
])
def test_numbers_in_a_row_are_a_range(numbers, text):
    assert ranges(numbers) == text


def test_a_size_is_binary():
    assert [size(0), size(1536), size(3 << 40)] == ["0 Bytes", "1.5 KiB", "3.0 TiB"]


# ---- the command --------------------------------------------------------------------------------

def test_the_command_prints_text():
    done = run("--connect", TEST)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown(read(TEST))


def test_the_command_prints_json():
    done = run("-c", TEST, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == read(TEST)


def test_libvirt_chooses_without_a_uri():
    done = run("--json", environment={"LIBVIRT_DEFAULT_URI": TEST})
    assert json.loads(done.stdout)["identity"]["uri"] == TEST


def test_piped_text_is_plain():
    text = run("-c", TEST).stdout
    assert "\x1b" not in text
    assert not BOX_DRAWING.search(text)
    assert not any(line.endswith(" ") for line in text.splitlines())
    # A line of more than 80 characters is still one line.
    assert re.search(r"^  Cell     Free .* Free 1 GiB pages$", text, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--json"], []], ids=["json", "text"])
def test_an_unreachable_uri_is_one_line_and_status_1(tmp_path, arguments):
    uri = f"qemu+unix:///session?socket={tmp_path}/none"
    done = run("-c", uri, *arguments)
    problem = (f"cannot open {uri}: Failed to connect socket to '{tmp_path}/none': No such file "
               "or directory")
    assert (done.returncode, done.stderr) == (1, f"pyvirhost: {problem}\n")
    assert (json.loads(done.stdout) if arguments else done.stdout) == (
        {"error": {"type": "LibvirtError", "message": problem}} if arguments else "")


@pytest.mark.parametrize("uri", ["no-such-driver", "http://[::1"])
def test_a_senseless_uri_is_one_line_and_status_1(uri):
    done = run("-c", uri)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pyvirhost: cannot open [^\n]+: [^\n]+\n", done.stderr)


def test_a_uri_that_is_no_text_is_a_wrong_command_line():
    done = run("-c", b"test:///\xff")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "pyvirhost: 'test:///\\udcff' must not contain unprintable characters\n")


def test_what_a_uri_has_does_not_reach_the_terminal():
    done = run("-c", "nope\x1b[2J\nnope")
    assert done.returncode == 2
    assert done.stderr == (
        "pyvirhost: 'nope\\x1b[2J\\nnope' must not contain unprintable characters\n")


def test_the_command_tells_its_version():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, f"pyvirhost {pyvirhost.__version__}\n", "")


def run_without(blocked, *arguments):
    """Run the command in an interpreter that has not the modules `blocked`."""
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); " \
              "from pyvirhost.cli import main; raise SystemExit(main())"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True,
                          text=True, timeout=60, cwd=ROOT, check=False)


@pytest.mark.parametrize("library", ["rich", "humanize"])
def test_json_needs_no_library(library):
    done = run_without([library], "-c", TEST, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == read(TEST)


@pytest.mark.parametrize("library", ["rich", "humanize"])
def test_text_without_its_libraries_is_one_line_and_status_1(library):
    done = run_without([library], "-c", TEST)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"pyvirhost: [^\n]*{library}[^\n]* pip install 'pyvirhost\[cli\]'[^\n]*\n", done.stderr)


def test_a_missing_libvirt_is_one_line_and_status_1(tmp_path):
    # The loader finds this file in place of the library, and can't load it.
    (tmp_path / "libvirt.so.0").touch()
    done = run("-c", TEST, environment={"LD_LIBRARY_PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pyvirhost: [^\n]*libvirt[^\n]*\n", done.stderr)


@pytest.mark.parametrize("arguments", [["--json"], []], ids=["json", "text"])
def test_a_reader_that_left_is_no_error(arguments):
    unread, written = os.pipe()
    os.close(unread)
    with open(written, "wb") as stdout:
        done = subprocess.run([*COMMAND, "-c", TEST, *arguments], stdout=stdout,
                              stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_head_ends_the_command_quietly():
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *COMMAND, "-c", TEST], capture_output=True,
        text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Identity\n", "")


def test_a_full_disk_is_one_line_and_status_1():
    with open("/dev/full", "w") as stdout:
        done = subprocess.run([*COMMAND, "-c", TEST], stdout=stdout, stderr=subprocess.PIPE,
                              text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (
        1, f"pyvirhost: cannot print: {os.strerror(errno.ENOSPC)}\n")


def test_a_name_that_the_locale_lacks_is_printed_all_the_same(host):
    done = run("-c", host(model="\xfc\u0142"), environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "  Model     \\xfc\\u0142\n" in done.stdout


@pytest.mark.usefixtures("interruptible")
def test_interrupting_ends_the_command_while_a_server_is_silent(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/silent")
        server.listen()
        process = subprocess.Popen(
            [*COMMAND, "-c", f"qemu+unix:///session?socket={tmp_path}/silent"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        server.settimeout(60)
        try:
            client, _ = server.accept()
            with client:
                client.settimeout(60)
                assert client.recv(4)
                process.send_signal(signal.SIGINT)
                output = process.communicate(timeout=60)
        finally:
            process.kill()
    # A shell makes 130 of it.
    assert process.returncode == -signal.SIGINT
    assert output == (b"", b"")


def test_wished_colours_do_not_bring_a_width():
    text = run("-c", TEST, environment={"FORCE_COLOR": "1", "TERM": "xterm"}).stdout
    assert COLOUR.search(text)
    assert re.search("Free 1 GiB pages", text)


def test_a_terminal_has_colours():
    assert COLOUR.search(on_terminal("-c", TEST))


def test_no_color_has_none():
    text = on_terminal("-c", TEST, NO_COLOR="1")
    assert not COLOUR.search(text)
    assert "Hostname" in text


def test_a_terminal_shows_the_same():
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal("-c", TEST))
    assert [line.rstrip() for line in text.splitlines()] == shown(read(TEST)).splitlines()


def test_a_real_host_lacks_nothing(qemu):
    report = collect(qemu)
    assert report["errors"] == {}
    assert report["memory"]["stats"]["total_bytes"] == qemu.memory_stats().total * 1024
    assert [cpu["cpu"] for cpu in report["cpu_time"]["per_cpu"]] == list(qemu.cpu_map())
    assert report["ksm"]["sleep_seconds"] == qemu.memory_parameters()["shm_sleep_millisecs"] / 1000
    assert {pages["page_size_bytes"] for pages in report["cells"][0]["free_pages"]} >= {4096}


@pytest.mark.parametrize("procedure", [59, 6, 228, 289, 122])
def test_a_connection_lost_in_the_middle_is_one_line_and_status_1(proxy, procedure):
    proxy.cut_at = procedure
    done = run("-c", proxy.qemu_uri)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pyvirhost: the connection to qemu\S+ is lost, open it again: .*\n",
                        done.stderr)

"""The commands against virsh's answers from the same daemon, and how they behave for people."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command import COLOUR, COMMAND, ROOT, Terminal, on_terminal, run
from daemon import PASSWORD, USER, Daemon
from hostile import Answers, numbers, stats, typed_parameters
from hostile import text as xdr_text
from test_values import MEMORY_PARAMETERS, NUMBERS, REASONS, TOLD, double

import pyvirhost
from pyvirhost.cli import parser
from pyvirhost.commands import COMMANDS
from pyvirhost.fleet import Fleet, Session
from pyvirhost.hosts import Host, hosts_of_file
from pyvirhost.text import duration, ranges, size

TEST = "test:///default"
CPU = "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"
KIB, MIB = 1024, 1024**2
KSM = Path("/sys/kernel/mm/ksm")
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def virsh(uri, *command, status=0):
    """What virsh says: its answer, or the last line of what is wrong or different."""
    done = subprocess.run(["virsh", "-c", uri, *command], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.strip() if not status else (
        (done.stderr.strip() or done.stdout.strip()).splitlines()[-1].removeprefix("error: "))


def virsh_numbers(uri, *command):
    return {name.strip(): int(number) for name, number in re.findall(
        r"^\s*(\S.*?)\s*:?\s+(\d+)\b", virsh(uri, *command), re.MULTILINE)}


def text(uri, *command, status=0):
    done = run("-c", uri, *command)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout.rstrip("\n")


def pairs(uri, *command):
    """The labels and values of a text."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text(uri, *command).splitlines())


def data(uri, *command, status=0):
    done = run("-c", uri, "--json", *command)
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def refusal(*arguments, status=1):
    """The one line that says what is wrong."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    line, = done.stderr.splitlines()
    return line.removeprefix("pyvirhost: ")


def between(before, value, after, slack=0):
    assert min(before, after) - slack <= value <= max(before, after) + slack


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    """Leave out what a CI or a person tells rich about colours and Python about buffers."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def uri(daemon):
    """The QEMU driver, which reads this very host."""
    return daemon.qemu_uri


@pytest.fixture
def test_uri(daemon):
    """The test driver in a daemon, whose numbers are fixed."""
    return daemon.test_uri


@pytest.fixture(scope="module")
def capabilities(daemon, tmp_path_factory):
    """A file with the host's capabilities."""
    path = tmp_path_factory.mktemp("cpus") / "capabilities.xml"
    path.write_text(virsh(daemon.qemu_uri, "capabilities"))
    return str(path)


@pytest.fixture
def cpu_file(tmp_path):
    path = tmp_path / "cpu.xml"
    path.write_text(CPU)
    return str(path)


# ---- what virsh says ----------------------------------------------------------------------------

def test_every_host_command_of_virsh_is_there(uri):
    listed = set(re.findall(r"^    (\S+)", virsh(uri, "help", "host"), re.MULTILINE))
    # They ask for a domain's capabilities, which is libvirt's domain module.
    assert listed - {"domcapabilities", "hypervisor-cpu-models"} <= COMMANDS.keys()


@pytest.mark.parametrize("command", ["hostname", "uri", "maxvcpus"])
def test_a_single_value_is_bare(uri, test_uri, command):
    # Where there are capabilities of domains virsh takes the number from them, and it is another.
    for host in (TEST, test_uri, *([uri] if command != "maxvcpus" else [])):
        told = virsh(host, command)
        assert text(host, command) == told
        assert [str(value) for value in data(host, command).values()] == [told]


def test_maxvcpus_of_a_kind_of_domain(uri):
    with pyvirhost.open(uri) as connection:
        assert text(uri, "maxvcpus", "--type", "qemu") == str(connection.max_vcpus("qemu"))
    assert refusal("-c", uri, "maxvcpus", "--type", "nope") == virsh(
        uri, "maxvcpus", "--type", "nope", status=1)


@pytest.mark.parametrize("command", ["capabilities", "sysinfo"])
def test_xml_is_passed_on(test_uri, command):
    told = virsh(test_uri, command)
    assert text(test_uri, command) == told
    assert data(test_uri, command)[command].strip() == told


def test_the_capabilities_of_a_real_host(uri):
    def lasting(xml):
        root = ElementTree.fromstring(xml)
        for parent in root.iter():
            for name in ("uuid", "counter"):
                for child in parent.findall(name):
                    parent.remove(child)
        return ElementTree.tostring(root)

    assert lasting(text(uri, "capabilities")) == lasting(virsh(uri, "capabilities"))


def test_version(uri, test_uri):
    for host in (uri, test_uri):
        found = data(host, "version")
        told = virsh(host, "version", "--daemon")
        assert f"Using library: libvirt {found['library_version']}\n" in told
        assert f"Running hypervisor: {found['driver']} {found['hypervisor_version']}\n" in told
        assert told.endswith(f"Running against daemon: {found['libvirt_version']}")
        assert found["pyvirhost_version"] == pyvirhost.__version__
        assert pairs(host, "version") == {
            "Driver": found["driver"], "Hypervisor version": found["hypervisor_version"],
            "libvirt of the host": found["libvirt_version"],
            "libvirt here": found["library_version"], "pyvirhost": pyvirhost.__version__}


def test_nodeinfo(uri, test_uri):
    for host in (uri, test_uri):
        told = virsh_numbers(host, "nodeinfo")
        found = data(host, "nodeinfo")
        model = re.search(r"CPU model: +(\S+)", virsh(host, "nodeinfo"))[1]
        mhz = found["mhz"] if host == uri else told["CPU frequency"]  # a real one varies
        assert found == {
            "model": model, "memory_bytes": told["Memory size"] * KIB, "cpus": told["CPU(s)"],
            "mhz": mhz, "nodes": told["NUMA cell(s)"], "sockets": told["CPU socket(s)"],
            "cores": told["Core(s) per socket"], "threads": told["Thread(s) per core"],
            "max_cpus": found["max_cpus"]}
        assert pairs(host, "nodeinfo") | {"Frequency": ""} == {
            "Model": model, "CPUs": str(told["CPU(s)"]), "Frequency": "",
            "NUMA cells": str(told["NUMA cell(s)"]),
            "Sockets per cell": str(told["CPU socket(s)"]),
            "Cores per socket": str(told["Core(s) per socket"]),
            "Threads per core": str(told["Thread(s) per core"]),
            "Memory": size(told["Memory size"] * KIB)}


def test_nodecpumap(uri, test_uri):
    for host in (uri, test_uri):
        told = virsh_numbers(host, "nodecpumap")
        bits = re.search(r"CPU map: +(\S+)", virsh(host, "nodecpumap"))[1]
        online = [cpu for cpu, bit in enumerate(bits) if bit == "y"]
        offline = [cpu for cpu, bit in enumerate(bits) if bit != "y"]
        assert data(host, "nodecpumap") == {
            "present": told["CPUs present"], "online": told["CPUs online"], "online_cpus": online}
        assert pairs(host, "nodecpumap") == {
            "Present": str(told["CPUs present"]), "Online": str(told["CPUs online"]),
            "Online CPUs": ranges(online), "Offline CPUs": ranges(offline) or "none"}


VIRSH_FIELDS = {"user": "user", "kernel": "system", "idle": "idle", "iowait": "iowait"}


@pytest.mark.parametrize("which", [[], ["--cpu", "0"]], ids=["all", "one"])
def test_nodecpustats(uri, test_uri, which):
    before = virsh_numbers(uri, "nodecpustats", *which)
    found = data(uri, "nodecpustats", *which)
    after = virsh_numbers(uri, "nodecpustats", *which)
    for field, name in VIRSH_FIELDS.items():
        between(before[name], round(found[f"{field}_seconds"] * 1e9), after[name])
    told = virsh_numbers(test_uri, "nodecpustats", *which)
    whole = sum(told[name] for name in VIRSH_FIELDS.values())
    shown = pairs(test_uri, "nodecpustats", *which)
    for field, name in VIRSH_FIELDS.items():
        share = f"{told[name] / whole:.1%}"
        assert shown[field.capitalize()].split() == [*duration(told[name] / 1e9).split(), share]


def test_nodecpustats_of_each_cpu(test_uri):
    found = data(test_uri, "nodecpustats", "--per-cpu")["cpus"]
    assert [times["cpu"] for times in found] == data(test_uri, "nodecpumap")["online_cpus"]
    for times in found:
        told = virsh_numbers(test_uri, "nodecpustats", "--cpu", str(times["cpu"]))
        for field, name in VIRSH_FIELDS.items():
            assert round(times[f"{field}_seconds"] * 1e9) == told[name]
    head, *lines = text(test_uri, "nodecpustats", "--per-cpu").splitlines()
    assert head.split()[:3] == ["CPU", "User", "Kernel"]
    assert [line.split()[0] for line in lines] == ["0", "2", "4"]


SHARES = [f"{mode}_percent" for mode in ("user", "kernel", "idle", "iowait")]


def test_nodecpustats_in_percent(uri):
    before = virsh_numbers(uri, "nodecpustats")
    found = data(uri, "nodecpustats", "--percent", "--interval", "0.5")
    after = virsh_numbers(uri, "nodecpustats")
    assert found["interval_seconds"] >= 0.5
    assert sum(found[share] for share in SHARES) == pytest.approx(100, abs=0.01)
    assert found["busy_percent"] == pytest.approx(
        100 - found["idle_percent"] - found["iowait_percent"], abs=0.01)
    # What was spent in the interval was spent between the two of virsh around it.
    cpus = data(uri, "nodecpumap")["online"]
    for field, name in VIRSH_FIELDS.items():
        spent = found[f"{field}_percent"] / 100 * found["interval_seconds"] * cpus
        assert spent <= (after[name] - before[name]) / 1e9 + 0.05 * cpus
    shown = pairs(uri, "nodecpustats", "--percent", "--interval", "0.1")
    assert shown.keys() - {"Guest"} == {"Busy", "User", "Kernel", "Idle", "Iowait"}
    assert all(re.fullmatch(r"\d+\.\d%", share) for share in shown.values())


def test_nodecpustats_in_percent_of_each_cpu(uri):
    found = data(uri, "nodecpustats", "--percent", "--interval", "0.3", "--per-cpu")
    assert [cpu["cpu"] for cpu in found["cpus"]] == data(uri, "nodecpumap")["online_cpus"]
    for cpu in found["cpus"]:
        assert sum(cpu[share] for share in SHARES) == pytest.approx(100, abs=0.01)
    one = data(uri, "nodecpustats", "--percent", "--interval", "0.3", "--cpu", "0")
    assert one["cpu"] == 0
    assert sum(one[share] for share in SHARES) == pytest.approx(100, abs=0.01)
    options = ("--percent", "--interval", "0.1", "--cpu", "9999")
    assert refusal("-c", uri, "nodecpustats", *options) == virsh(
        uri, "nodecpustats", "--cpu", "9999", status=1)


def test_where_no_time_passes_there_are_no_percents(test_uri):
    assert "nan%" in virsh(test_uri, "nodecpustats", "--percent")
    found = data(test_uri, "nodecpustats", "--percent", "--interval", "0.1")
    assert {found[share] for share in [*SHARES, "busy_percent"]} == {None}
    assert set(pairs(test_uri, "nodecpustats", "--percent", "--interval", "0.1").values()) == {
        "unknown"}


def test_the_interval_is_not_the_hosts_time(test_uri):
    found = data(test_uri, "nodecpustats", "--percent", "--interval", "1.5", "--timeout", "1")
    assert found["interval_seconds"] >= 1.5


def test_a_cpu_that_there_is_not(uri):
    assert refusal("-c", uri, "nodecpustats", "--cpu", "9999") == virsh(
        uri, "nodecpustats", "--cpu", "9999", status=1)


@pytest.mark.parametrize("which", [[], ["--cell", "0"]], ids=["all", "cell"])
def test_nodememstats(uri, which):
    before = virsh_numbers(uri, "nodememstats", *which)
    found = data(uri, "nodememstats", *which)
    after = virsh_numbers(uri, "nodememstats", *which)
    assert found.pop("cell", None) == (0 if which else None)
    assert {field.removesuffix("_bytes") for field in found} == before.keys()
    for name in before:
        between(before[name] * KIB, found[f"{name}_bytes"], after[name] * KIB, slack=256 * MIB)
    shown = pairs(uri, "nodememstats", *which)
    assert shown["Total"] == size(before["total"] * KIB)
    assert shown.keys() - {"Cell"} == {name.capitalize() for name in before}


def test_freecell(uri, test_uri):
    told = virsh_numbers(test_uri, "freecell")["Total"] * KIB
    assert data(test_uri, "freecell") == {"free_bytes": told}
    assert text(test_uri, "freecell") == size(told)
    told = virsh_numbers(test_uri, "freecell", "--all")
    assert data(test_uri, "freecell", "--all") == {
        "cells": [{"cell": cell, "free_bytes": told[str(cell)] * KIB} for cell in (0, 1)],
        "free_bytes": told["Total"] * KIB}
    assert pairs(test_uri, "freecell", "--all") == {
        "Cell 0": size(told["0"] * KIB), "Cell 1": size(told["1"] * KIB),
        "Total": size(told["Total"] * KIB)}
    for option in ("--cellno", "--cell"):
        assert data(test_uri, "freecell", option, "1") == {
            "cell": 1, "free_bytes": told["1"] * KIB}
    assert pairs(test_uri, "freecell", "--cellno", "1") == {
        "Cell": "1", "Free": size(told["1"] * KIB)}
    before = virsh_numbers(uri, "freecell")["Total"] * KIB
    free = data(uri, "freecell")["free_bytes"]
    after = virsh_numbers(uri, "freecell")["Total"] * KIB
    between(before, free, after, slack=256 * MIB)
    assert refusal("-c", uri, "freecell", "--cellno", "77") == virsh(
        uri, "freecell", "--cellno", "77", status=1)


def virsh_pages(uri):
    """What is free in the first cell, as {page size in bytes: free}."""
    first = virsh(uri, "freepages", "--all").partition("Node 1:")[0]
    return {int(size) * KIB: int(free) for size, free in re.findall(
        r"^(\d+)KiB: (\d+)$", first, re.MULTILINE)}


def test_freepages(uri):
    # libvirt 9.0's test driver counts from the first cell that it is asked for, and virsh asks for
    # one after another; in a daemon it fails.
    told = virsh_pages(TEST)
    found = data(TEST, "freepages", "--cellno", "0")
    assert found == {"cells": [{"cell": 0, "free_pages": [
        {"page_size_bytes": size, "free": free} for size, free in told.items()]}]}
    head, line = text(TEST, "freepages", "--cellno", "0").splitlines()
    assert re.split(r"  +", head) == ["Cell", *(
        f"Free {size(pages, '%.0f')} pages" for pages in told)]
    assert line.split() == ["0", *(f"{free:,}" for free in told.values())]
    every = data(TEST, "freepages")
    assert every == data(TEST, "freepages", "--all")
    assert [cell["cell"] for cell in every["cells"]] == [0, 1]
    assert every["cells"][0] == found["cells"][0]
    told = virsh(TEST, "freepages", "--cellno", "0", "--pagesize", "2M")
    for one in ("2048", "2M", "2m", "2MiB"):
        found = data(TEST, "freepages", "--cellno", "0", "--pagesize", one)
        pages, = found["cells"][0]["free_pages"]
        assert told == f"{pages['page_size_bytes'] // KIB}KiB: {pages['free']}"
    told = virsh_pages(uri)
    pages = {pages["page_size_bytes"]: pages["free"]
             for pages in data(uri, "freepages")["cells"][0]["free_pages"]}
    assert pages.keys() == told.keys()
    assert {size: free for size, free in pages.items() if size > 4096} == {
        size: free for size, free in told.items() if size > 4096}
    between(told[4096], pages[4096], virsh_pages(uri)[4096], slack=256 * MIB // 4096)
    assert refusal("-c", uri, "freepages", "--cellno", "0", "--pagesize", "12") == virsh(
        uri, "freepages", "--cellno", "0", "--pagesize", "12", status=1)


def test_cpu_models(uri):
    told = virsh(uri, "cpu-models", "ppc64").split()
    assert data(uri, "cpu-models", "ppc64") == {"arch": "ppc64", "models": told}
    assert text(uri, "cpu-models", "ppc64").split() == told
    own = data(uri, "cpu-models")
    assert own["arch"] == data(uri, "nodeinfo")["model"]
    assert own["models"] == virsh(uri, "cpu-models", own["arch"]).split()
    assert refusal("-c", uri, "cpu-models", "nope") == virsh(
        uri, "cpu-models", "nope", status=1)


def test_node_memory_tune(uri):
    told = virsh_numbers(uri, "node-memory-tune")
    found = data(uri, "node-memory-tune")
    assert found["pages_to_scan"] == told["shm_pages_to_scan"]
    assert found["sleep_seconds"] == told["shm_sleep_millisecs"] / 1000
    assert found["merge_across_nodes"] is bool(told["shm_merge_across_nodes"])
    assert pairs(uri, "node-memory-tune")["Sleep"] == duration(told["shm_sleep_millisecs"] / 1000)
    assert len(found) == len(told)


@pytest.mark.parametrize("command", [
    ["nodememstats"], ["node-memory-tune"], ["nodesevinfo"], ["allocpages", "2048", "1"],
    ["nodesuspend", "mem", "60"]], ids=lambda command: command[0])
def test_what_a_driver_does_not_support(test_uri, command):
    if command[0] == "allocpages":
        test_uri = TEST  # in a daemon, libvirt 9.0's test driver can't count the pages before
    told = virsh(test_uri, *command, status=1)
    consent = ["--yes"] if command[0] in ("allocpages", "nodesuspend") else []
    for output in ([], ["--json"]):
        assert refusal("-c", test_uri, *command, *consent, *output) == told


def test_nodesevinfo_and_sysinfo_of_a_real_host(uri):
    for command in ("nodesevinfo", "sysinfo"):
        done = run("-c", uri, command)
        if done.returncode:
            assert refusal("-c", uri, command) == virsh(uri, command, status=1)
        elif command == "sysinfo":
            assert done.stdout.rstrip("\n") == virsh(uri, command)
        else:
            assert {name: str(value) for name, value in data(uri, command).items()} == dict(
                re.findall(r"^(\S+) *: (.*)$", virsh(uri, command), re.MULTILINE))


# ---- CPUs compared ------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], ["--features"], ["--migratable"]], ids=" ".join)
def test_cpu_baseline_of_a_file(uri, capabilities, options):
    told = virsh(uri, "cpu-baseline", capabilities, *options)
    assert text(uri, "cpu-baseline", capabilities, *options) == told
    assert data(uri, "cpu-baseline", capabilities, *options)["cpu"].strip() == told
    with open(capabilities) as stdin:
        done = run("-c", uri, "cpu-baseline", "-", *options, stdin=stdin)
    assert done.stdout.strip() == told


@pytest.mark.parametrize("xml", [
    CPU, f"<?xml version='1.0'?>\n<!-- two -->\n{CPU}{CPU}",
    f"<domain type='kvm'><name>x</name>{CPU}</domain>",
    "<domainCapabilities><cpu><mode name='host-passthrough' supported='yes'/>"
    "<mode name='host-model' supported='yes'><model>qemu64</model></mode></cpu>"
    "</domainCapabilities>",
], ids=["cpu", "two", "domain", "domain capabilities"])
def test_cpus_are_found_where_virsh_finds_them(uri, tmp_path, xml):
    path = tmp_path / "cpus.xml"
    path.write_text(xml)
    told = virsh(uri, "hypervisor-cpu-baseline", str(path), "--virttype", "qemu")
    assert text(uri, "hypervisor-cpu-baseline", str(path), "--virttype", "qemu") == told


def test_cpu_compare(uri, capabilities, cpu_file, tmp_path):
    assert "is identical to host CPU" in virsh(uri, "cpu-compare", capabilities)
    assert text(uri, "cpu-compare", capabilities) == "identical"
    assert data(uri, "cpu-compare", capabilities) == {"host_cpu": "identical"}
    options = ("--virttype", "qemu", "--arch", "x86_64", "--machine", "q35")
    assert "is a superset of CPU" in virsh(uri, "hypervisor-cpu-compare", cpu_file, *options)
    assert text(uri, "hypervisor-cpu-compare", cpu_file, *options) == "superset"
    impossible = tmp_path / "impossible.xml"
    impossible.write_text(
        "<cpu match='exact'><model>qemu64</model>"
        "<feature policy='require' name='3dnow'/><feature policy='require' name='ia64'/></cpu>")
    for command in (["cpu-compare"], ["hypervisor-cpu-compare", "--virttype", "qemu"]):
        assert "is incompatible with" in virsh(uri, *command, str(impossible), status=1)
        assert text(uri, *command, str(impossible), status=1) == "incompatible"
        assert data(uri, *command, str(impossible), status=1) == {"host_cpu": "incompatible"}
        assert refusal("-c", uri, *command, str(impossible), "--error") == virsh(
            uri, *command, str(impossible), "--error", status=1)


def test_the_xml_of_a_cpu_is_validated(uri, tmp_path):
    path = tmp_path / "cpu.xml"
    path.write_text("<cpu><arch>x86_64</arch><model>qemu64</model><nonsense/></cpu>")
    virsh(uri, "cpu-compare", str(path), "--validate", status=1)
    assert "XML document failed to validate against schema" in refusal(
        "-c", uri, "cpu-compare", str(path), "--validate")


@pytest.mark.parametrize(("xml", "problem"), [
    ("", "has no <cpu>, be it alone, in a domain or in capabilities"),
    ("<domain/>", "has no <cpu>"), ("<cpu>", "is not XML: mismatched tag"),
    ("&nope;", "is not XML: undefined entity"), (None, "No such file or directory"),
    (b"\xff", "can't decode"), (f"<!DOCTYPE cpu>{CPU}", "is XML with a document type"),
    ("<cpu>" * 5000 + "</cpu>" * 5000, "is XML nested deeper than 100 elements"),
    ("<cpu>\0</cpu>", "is not XML: not well-formed"),
], ids=["empty", "no cpu", "not closed", "entity", "missing", "not UTF-8", "document type", "deep",
        "NUL"])
def test_a_file_without_cpus_is_a_wrong_command_line(tmp_path, xml, problem):
    path = tmp_path / "cpus.xml"
    if xml is not None:
        path.write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    line = refusal("-c", TEST, "cpu-baseline", str(path), status=2)
    assert problem in line
    assert str(path) in line


def test_standard_input_that_is_closed_has_no_cpus():
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *COMMAND, "-c", TEST, "cpu-baseline", "-"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read -: Bad file descriptor" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_comparison_needs_one_cpu(cpu_file, tmp_path):
    assert "needs a FILE" in refusal("-c", TEST, "cpu-compare", status=2)
    path = tmp_path / "cpus.xml"
    path.write_text(CPU * 2)
    assert "the file has 2" in refusal("-c", TEST, "cpu-compare", str(path), status=2)


def test_the_cpu_of_a_fleet(daemon, capabilities, tmp_path):
    """Two daemons of one host here, so what comes is the baseline of its CPU twice."""
    cpus = tmp_path / "cpus.xml"
    cpus.write_text(Path(capabilities).read_text() * 2)
    told = virsh(daemon.qemu_uri, "cpu-baseline", str(cpus))
    hosts = ("-c", daemon.qemu_uri, "-c", f"{daemon.qemu_uri}&mode=legacy")
    done = run(*hosts, "cpu-baseline")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, told, "")
    done = run(*hosts, "cpu-baseline", "--json")
    assert json.loads(done.stdout)["cpu"].strip() == told
    done = run(*hosts, "cpu-compare", "--json")
    assert [host["host_cpu"] for host in json.loads(done.stdout)] == ["identical", "identical"]
    assert text(daemon.qemu_uri, "cpu-baseline") == told
    options = ("--virttype", "qemu")
    assert run(*hosts, "hypervisor-cpu-baseline", *options).stdout.strip() == virsh(
        daemon.qemu_uri, "hypervisor-cpu-baseline", str(cpus), *options)


def test_there_is_no_cpu_of_a_fleet_when_a_host_is_missing(daemon, tmp_path):
    gone = f"qemu+unix:///session?socket={tmp_path}/gone"
    for output in ([], ["--json"]):
        line = refusal("-c", daemon.qemu_uri, "-c", gone, "cpu-baseline", *output)
        assert line.startswith(f"{gone}: cannot open {gone}: ")
    line = refusal("-c", daemon.qemu_uri, "-c", TEST, "cpu-baseline")
    assert line == f"{TEST}: the host's capabilities do not tell its CPU model"


# ---- several hosts ------------------------------------------------------------------------------

@contextmanager
def silent_servers(folder, count):
    """URIs of servers that let everybody connect, and say nothing."""
    with ExitStack() as stack:
        servers = []
        for i in range(count):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(f"{folder}/silent{i}")
            server.listen()
            server.settimeout(60)
            servers.append(server)
        yield [(f"test+unix:///default?socket={folder}/silent{i}", server)
               for i, server in enumerate(servers)]


def test_several_hosts_are_rows_of_one_table(daemon):
    hosts = [daemon.test_uri, daemon.qemu_uri, TEST]
    options = [option for host in hosts for option in ("-c", host)]
    done = run(*options, "nodeinfo")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert re.split(r"  +", head)[:3] == ["Host", "Model", "CPUs"]
    for host, line in zip(hosts, lines, strict=True):
        assert line.split() == [host, *(
            word for value in pairs(host, "nodeinfo").values() for word in value.split())]
    done = run(*options, "nodeinfo", "--json")
    assert json.loads(done.stdout) == [
        {"host": host, **data(host, "nodeinfo")} for host in hosts]


def test_a_host_that_fails_is_a_row_and_status_1(daemon, own_daemon):
    gone = own_daemon.test_uri
    own_daemon.process.kill()
    own_daemon.process.wait(10)
    hosts = ("-c", daemon.test_uri, "-c", gone, "-c", TEST)
    done = run(*hosts, "freecell")
    assert (done.returncode, done.stderr) == (1, "")
    assert [re.split(r"  +", line) for line in done.stdout.splitlines()] == [
        ["Host", "Free", "Error"], [daemon.test_uri, "3.0 MiB"],
        [gone, f"cannot open {gone}: Failed to connect socket to '{own_daemon.socket}': "
               "Connection refused"],
        [TEST, "3.0 MiB"]]
    done = run(*hosts, "freecell", "--json")
    assert done.returncode == 1
    good, failed, other = json.loads(done.stdout)
    assert good == {"host": daemon.test_uri, "free_bytes": 3 * MIB}
    assert other == {"host": TEST, "free_bytes": 3 * MIB}
    assert failed["host"] == gone
    assert failed["error"]["type"] == "LibvirtError"
    assert failed["error"]["message"].startswith(f"cannot open {gone}: Failed to connect")


def test_a_report_on_several_hosts_is_a_line_for_each(daemon):
    done = run("-c", daemon.qemu_uri, "-c", TEST)
    assert (done.returncode, done.stderr) == (0, "")
    head, real, test = done.stdout.splitlines()
    assert head.split() == ["Host", "Hostname", "Driver", "libvirt", "Model", "CPUs", "online",
                            "Cells", "Memory", "Free"]
    assert real.split()[:3] == [daemon.qemu_uri, virsh(daemon.qemu_uri, "hostname"), "QEMU"]
    assert test.split()[4:] == ["i686", "3", "2", "3.0", "GiB", "3.0", "MiB"]
    found = json.loads(run("-c", daemon.qemu_uri, "-c", TEST, "--json").stdout)
    assert [host["host"] for host in found] == [daemon.qemu_uri, TEST]
    assert found[1]["node"] == data(TEST, "report")["node"]


def test_hosts_are_asked_at_the_same_time(tmp_path):
    with silent_servers(tmp_path, 20) as servers:
        options = [option for uri, _ in servers for option in ("-c", uri)]
        process = subprocess.Popen([*COMMAND, *options, "hostname"], cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with ExitStack() as stack:
                for _, server in servers:  # none has answered
                    stack.enter_context(server.accept()[0])
        finally:
            process.kill()
            process.wait(60)


def test_no_more_hosts_than_wished_are_asked_at_the_same_time(tmp_path):
    with silent_servers(tmp_path, 2) as ((first, one), (second, other)):
        process = subprocess.Popen(
            [*COMMAND, "-c", first, "-c", second, "--parallel", "1", "hostname"], cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            client, _ = one.accept()
            assert client.recv(4)
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.accept()
            other.settimeout(60)
            client.close()  # the end of the first is the turn of the second
            other.accept()[0].close()
        finally:
            process.kill()
            process.wait(60)


def test_a_silent_host_costs_its_timeout_and_no_more(daemon, tmp_path):
    with silent_servers(tmp_path, 1) as [(silent, _)]:
        done = run("-c", silent, "-c", daemon.test_uri, "--timeout", "1", "freecell", "--json")
        assert done.returncode == 1
        late, good = json.loads(done.stdout)
        assert late["error"]["type"] == "OperationTimeoutError"
        assert good["free_bytes"] == 3 * MIB
        # Either opening or the sweep is the first to lose patience.
        assert re.search("no answer within 0.5 s|took longer than 0.5 s", refusal(
            "-c", silent, "--timeout", "0.5", "freecell"))


def test_a_call_that_hangs_does_not_hold_up_the_end(proxy):
    get_hostname, over = 59, threading.Event()

    def keep(procedure, body):
        if procedure == get_hostname:
            over.wait(60)
        return body

    proxy.change_reply = keep
    try:
        assert refusal("-c", proxy.qemu_uri, "--timeout", "2", "--keepalive", "off",
                       "hostname") == "no answer within 2 s"
        assert not over.is_set()
    finally:
        over.set()


def test_a_hosts_file_names_the_hosts(daemon, tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(f"""
        [hosts]
        alpha = "{daemon.test_uri}"
        "be ta" = {{ uri = "{TEST}", keepalive = "off", timeout = 20 }}
    """)
    done = run("--hosts", str(path), "-c", daemon.qemu_uri, "hostname", "--json")
    assert [host["host"] for host in json.loads(done.stdout)] == [
        daemon.qemu_uri, "alpha", "be ta"]
    (tmp_path / "more.toml").write_text(f'[hosts]\nalpha = "{TEST}"\n')
    assert refusal("--hosts", str(path), "--hosts", str(tmp_path / "more.toml"),
                   status=2) == "two hosts are named alpha"


def test_a_wrong_hosts_file_is_one_line_and_status_2(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text('[hosts]\nalpha = "test:///default"\n\nbeta = { url = "test:///x" }\n')
    assert refusal("--hosts", str(path), "nodeinfo", status=2) == (
        f"{path}, line 4: hosts.beta.url is unknown, not one of uri, readonly, keepalive, timeout")
    assert refusal("nodeinfo", "--hosts", "/no/such", status=2) == (
        "cannot read /no/such: No such file or directory")


# ---- again and again ----------------------------------------------------------------------------

@contextmanager
def watching(*arguments):
    """The command with --watch."""
    process = subprocess.Popen(
        [*COMMAND, "--watch", "0.1", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("interruptible")
def test_watching_prints_a_line_of_json_each_time_until_interrupted():
    with watching("-c", TEST, "--json", "freecell") as process:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT  # 130 to a shell
    assert errors == ""
    for line in rest.splitlines():
        json.loads(line)
    assert first["free_bytes"] == second["free_bytes"] == 3 * MIB
    assert second["started_at"] > first["started_at"]


def test_watching_several_hosts_prints_a_list_a_line(test_uri):
    with watching("-c", TEST, "-c", test_uri, "--json", "hostname") as process:
        for _ in range(3):
            assert [host["host"] for host in json.loads(process.stdout.readline())] == [
                TEST, test_uri]


def test_watching_prints_text_with_the_time():
    with watching("-c", TEST, "freecell") as process:
        for _ in range(2):
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", process.stdout.readline())
            assert [process.stdout.readline() for _ in range(2)] == ["3.0 MiB\n", "\n"]


def watched_until(process, condition):
    """The first answer of the first host for which `condition` is true; the other is fine."""
    for line in islice(process.stdout, 150):
        host, other = json.loads(line)
        assert other["free_bytes"] == 3 * MIB
        if condition(host):
            return host
    return pytest.fail("waited for 150 answers in vain")


def test_a_watched_host_fails_and_comes_back(own_daemon):
    with watching("-c", own_daemon.test_uri, "-c", TEST, "--json", "freecell") as process:
        watched_until(process, lambda host: "free_bytes" in host)
        own_daemon.process.kill()
        own_daemon.process.wait(10)
        failed = watched_until(process, lambda host: "error" in host)
        assert failed["error"]["type"] in ("ConnectionLostError", "LibvirtError")
        own_daemon.start()
        watched_until(process, lambda host: "free_bytes" in host)


def test_keepalive_finds_a_watched_host_that_hangs(own_daemon):
    with watching("-c", own_daemon.test_uri, "-c", TEST, "--keepalive", "1:1", "--json",
                  "freecell") as process:
        watched_until(process, lambda host: "free_bytes" in host)
        own_daemon.process.send_signal(signal.SIGSTOP)
        failed = watched_until(process, lambda host: "error" in host)
        assert failed["error"]["type"] == "ConnectionLostError"


def test_a_watched_host_that_hangs_is_asked_again_when_it_has_answered(own_daemon):
    with watching("-c", own_daemon.test_uri, "-c", TEST, "--timeout", "0.3", "--json",
                  "freecell") as process:
        watched_until(process, lambda host: "free_bytes" in host)
        own_daemon.process.send_signal(signal.SIGSTOP)
        # The call that hangs is waited for once, and then only told of.
        for message in ("no answer within 0.3 s", "still no answer"):
            watched_until(process, lambda host, message=message: message in str(host.get("error")))
        own_daemon.process.send_signal(signal.SIGCONT)
        watched_until(process, lambda host: "free_bytes" in host)


@pytest.mark.parametrize("arguments", [
    ["allocpages", "2M", "1", "--yes"], ["nodesuspend", "mem", "60", "--yes"],
    ["node-memory-tune", "--shm-pages-to-scan", "9"]], ids=lambda arguments: arguments[0])
def test_what_changes_a_host_is_not_repeated(arguments):
    assert refusal("-c", TEST, "--watch", "1", *arguments, status=2) == (
        f"--watch is for readings, and {arguments[0]} changes the host")


# ---- what changes a host ------------------------------------------------------------------------

CHANGES = [(["allocpages", "2M", "1"], "Let the host have 1 page of 2 MiB"),
           (["allocpages", "1G", "3", "--cell", "1", "--add"], "Give cell 1 3 pages of 1 GiB more"),
           (["allocpages", "4", "2", "--all"], "Let each cell have 2 pages of 4 KiB"),
           (["nodesuspend", "disk", "90"], "Suspend to disk for 1.5 min")]


@pytest.mark.parametrize(("arguments", "question"), CHANGES, ids=lambda value: str(value[0]))
def test_consent_is_asked_for_on_a_terminal(arguments, question):
    for answer, ends in (("n\n", "pyvirhost: nothing was done\n"), ("\n", "nothing was done\n"),
                         ("\x04", "nothing was done\n"), ("y\n", "not supported"),
                         ("YES\n", "not supported")):
        with Terminal("-c", TEST, *arguments) as terminal:
            terminal.read(until=f"{question} ({TEST})? [y/N] ")
            terminal.type(answer)
            status, printed = terminal.end()
        assert ends in printed
        assert status == (1 if ends == "not supported" else 2)


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in CHANGES], ids=str)
def test_nothing_is_done_unasked(arguments):
    assert refusal("-c", TEST, *arguments, status=2) == (
        "there is no terminal to ask on, so say --yes")


def test_a_suspend_is_at_least_a_minute():
    assert "less than 60 seconds" in refusal(
        "-c", TEST, "nodesuspend", "mem", "59", "--yes", status=2)


def test_readonly_is_kept_to(uri, tmp_path):
    told = r"operation forbidden: read only access prevents \w+"
    path = tmp_path / "fleet.toml"
    path.write_text(f'[hosts]\nthis = {{ uri = "{uri}", readonly = true }}\n')
    for command in (["nodesevinfo"], ["node-memory-tune", "--shm-pages-to-scan", "100"],
                    ["allocpages", "2M", "0", "--add", "--yes"]):
        for host in (["-c", uri, "--readonly"], ["--hosts", str(path)]):
            assert re.fullmatch(told, refusal(*host, *command))


@contextmanager
def put_back(*paths):
    before = {path: path.read_text() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_text(content)


def test_ksm_is_tuned(root_daemon):
    uri = root_daemon.qemu_uri
    with put_back(KSM / "pages_to_scan", KSM / "sleep_millisecs"):
        scan = int((KSM / "pages_to_scan").read_text())
        (KSM / "sleep_millisecs").write_text("20")
        wishes = ["node-memory-tune", "--shm-pages-to-scan", str(scan + 11),
                  "--shm-sleep-millisecs", "2500"]
        changes = {"pages_to_scan": {"before": scan, "after": scan + 11},
                   "sleep_seconds": {"before": 0.02, "after": 2.5}}
        assert data(uri, *wishes, "--dry-run") == {"dry_run": True, "changes": changes}
        assert text(uri, *wishes, "--dry-run").splitlines()[0].split() == [
            "Parameter", "Was", "Would", "be"]
        assert int((KSM / "pages_to_scan").read_text()) == scan
        assert data(uri, *wishes) == {"dry_run": False, "changes": changes}
        assert int((KSM / "pages_to_scan").read_text()) == scan + 11
        assert int((KSM / "sleep_millisecs").read_text()) == 2500
        assert virsh_numbers(uri, "node-memory-tune")["shm_pages_to_scan"] == scan + 11
        assert [re.split("  +", line) for line in text(
            uri, "node-memory-tune", "--shm-sleep-millisecs", "30").splitlines()] == [
            ["Parameter", "Was", "Now"], ["Sleep", "2.5 s", "30 ms"]]
        assert int((KSM / "sleep_millisecs").read_text()) == 30


def test_huge_pages_are_reserved_and_given_back(root_daemon):
    uri = root_daemon.qemu_uri
    with put_back(POOL):
        before = int(POOL.read_text())
        free = data(uri, "freepages", "--pagesize", "2M")["cells"]
        found = data(uri, "allocpages", "2M", "3", "--add", "--yes")
        assert int(POOL.read_text()) == before + 3
        assert found["page_size_bytes"] == 2 * MIB
        assert [cell["free_before"] for cell in found["cells"]] == [
            cell["free_pages"][0]["free"] for cell in free]
        assert sum(cell["obtained"] for cell in found["cells"]) == 3
        if len(free) == 1:
            with Terminal("-c", uri, "allocpages", "2048", str(before), "--cell", "0",
                          NO_COLOR="1") as terminal:
                terminal.read(until="[y/N] ")
                terminal.type("y\n")
                status, printed = terminal.end()
            assert status == 0
            head, line = printed.splitlines()[-2:]
            assert re.split(r"  +", re.sub(r"\x1b\[[0-9;]*m", "", head).strip()) == [
                "Cell", "Page size", "Free before", "Free after", "Obtained"]
            assert line.split()[-1] == "-3"
            assert int(POOL.read_text()) == before


# ---- servers that mean harm ---------------------------------------------------------------------

GET_CAPABILITIES, HOSTNAME, COMPARE_CPU, CPU_STATS, SEV_INFO = 7, 59, 158, 227, 395


@pytest.fixture
def answers(daemon):
    with Answers(daemon) as answers:
        yield answers


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


def test_what_a_reading_raises_is_the_error_of_its_host():
    def read(connection):
        return 1 // (connection.uri() != TEST)

    fleet = Fleet([Session(Host(uri, uri), readonly=True, stays_open=False)
                   for uri in (TEST, "test:///default?")])
    bad, good = fleet.ask(read)
    assert isinstance(bad.error, ZeroDivisionError)
    assert (good.error, good.result) == (None, 1)


def test_a_parameter_that_is_called_changes_is_none(answers):
    answers.replies = {MEMORY_PARAMETERS: [typed_parameters((b"shm_changes", 2, numbers(5)))]}
    assert text(answers.qemu_uri, "node-memory-tune") == "5"


def test_no_host_speaks_for_another(answers, uri):
    names = (b"host", b"error", b"started_at")
    answers.replies = {SEV_INFO: [typed_parameters(*[(name, 7, xdr_text(b"x")) for name in names])]}
    done = run("-c", answers.qemu_uri, "-c", uri, "nodesevinfo", "--json")
    assert [host["host"] for host in json.loads(done.stdout)] == [answers.qemu_uri, uri]


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


# ---- terminals, pipes and people ----------------------------------------------------------------

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
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'[hosts]\n"bad\\u001b[2Jname" = "{TEST}"\nother = "{uri}"\n')
    for command in (["nodeinfo"], ["capabilities"]):
        printed = on_terminal("--hosts", str(fleet), *command, NO_COLOR="1")
        assert "bad\\x1b[2Jname" in printed
        assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", printed)  # but for bold
        assert "\u202e" not in printed
    assert "\x1b" not in run("--hosts", str(fleet), "--verbose", "hostname").stderr


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


def test_interrupting_a_sweep_gives_the_cursor_back(tmp_path):
    with silent_servers(tmp_path, 2) as servers:
        options = [option for uri, _ in servers for option in ("-c", uri)]
        with Terminal(*options, "freecell") as terminal:
            terminal.read(until="hosts")
            terminal.type("\x03")
            status, printed = terminal.end()
    assert status == -signal.SIGINT
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def sasl_daemon():
    with Daemon(sasl="scram-sha-256") as daemon:
        yield daemon


def test_a_password_is_asked_for_on_a_terminal(sasl_daemon):
    with Terminal("-c", sasl_daemon.test_uri, "freecell", NO_COLOR="1") as terminal:
        terminal.read(until="authorization name: ")
        terminal.type("\n")
        terminal.read(until="authentication name: ")
        terminal.type(f"{USER}\n")
        terminal.read(until="password: ")
        terminal.type(f"{PASSWORD}\n")
        status, printed = terminal.end()
    assert status == 0
    assert printed.endswith("3.0 MiB\n")
    assert PASSWORD not in printed
    assert "authentication" in refusal("-c", sasl_daemon.test_uri, "freecell").lower()


def test_ctrl_c_at_a_password_gives_the_echo_back(sasl_daemon):
    import termios

    with Terminal("-c", sasl_daemon.test_uri, "freecell") as terminal:
        terminal.read(until="authorization name: ")
        terminal.type("\n")
        terminal.read(until="authentication name: ")
        terminal.type(f"{USER}\n")
        terminal.read(until="password: ")
        terminal.type("\x03")
        assert terminal.process.wait(60) == -signal.SIGINT
        assert termios.tcgetattr(terminal.keys)[3] & termios.ECHO
        assert "Traceback" not in terminal.read()


def test_verbose_tells_how_long_each_host_took(daemon, tmp_path):
    gone = f"test+unix:///default?socket={tmp_path}/gone"
    done = run("-c", TEST, "-c", gone, "--verbose", "hostname")
    lines = sorted(done.stderr.splitlines())
    assert re.fullmatch(rf"{re.escape(gone)}: [\d.]+ ms; LibvirtError of virConnectOpenAuth, code "
                        r"<ErrorCode.SYSTEM_ERROR: 38>, domain \S+ \d+>: Failed.*",
                        lines[0])
    assert re.fullmatch(rf"{TEST}: [\d.]+ ms", lines[1])


# ---- the command line ---------------------------------------------------------------------------

def test_options_stand_before_or_after_the_command(test_uri):
    told = run("-c", TEST, "-c", test_uri, "--json", "hostname").stdout
    assert len(json.loads(told)) == 2
    for arguments in (["hostname", "--json", "-c", TEST, "--connect", test_uri],
                      ["--json", "-c", TEST, "hostname", "-c", test_uri],
                      ["-c", TEST, "hostname", "-c", test_uri, "--json"]):
        assert run(*arguments).stdout == told
    assert parser().parse_args(["--timeout", "3", "uri"]).timeout == 3
    assert parser().parse_args(["--timeout", "3", "uri", "--timeout", "4"]).timeout == 4


def test_libvirt_chooses_without_a_uri():
    done = run("uri", environment={"LIBVIRT_DEFAULT_URI": TEST})
    assert done.stdout == f"{TEST}\n"


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--js"], "unrecognized arguments: --js"),
    (["-c"], "expected one argument"),
    (["nosuchcommand"], "invalid choice: 'nosuchcommand'"),
    (["nodeinfo", "operand"], "unrecognized arguments: operand"),
    (["--watch", "0"], "must be a number of seconds that is more than 0, not '0'"),
    (["--watch", "-1"], "--watch"),
    (["--watch", "nan"], "more than 0"),
    (["--timeout", "inf"], "more than 0"),
    (["--timeout", "soon"], "more than 0"),
    (["--keepalive", "5"], "must be INTERVAL:COUNT"),
    (["--keepalive", "0:3"], "must be INTERVAL:COUNT"),
    (["--keepalive", "5:-3"], "must be INTERVAL:COUNT"),
    (["--keepalive", "99999999999:3"], "must be INTERVAL:COUNT"),
    (["--parallel", "0"], "must be more than 0"),
    (["nodecpustats", "--percent", "--interval", "0"], "more than 0"),
    (["freecell", "--cell", "-1"], "--cell"),
    (["freecell", "--cell", "x"], "must be a number, not 'x'"),
    (["freecell", "--cell", "99999999999"], "is too big"),
    (["freecell", "--cell", "0", "--all"], "not allowed with argument"),
    (["freepages", "--pagesize", "2X"], "must be a page size in KiB, or as in 2M or 1G"),
    (["freepages", "--pagesize", "0"], "must be a page size"),
    (["freepages", "--pagesize", "9999999G"], "must be a page size"),
    (["allocpages", "2M"], "PAGECOUNT"),
    (["nodesuspend", "nowhere", "60"], "invalid choice: 'nowhere'"),
    (["node-memory-tune", "--dry-run"], "--dry-run needs a parameter to set"),
    (["node-memory-tune", "--shm-merge-across-nodes", "2"], "must be 0 or 1"),
    (["-c", TEST, "-c", TEST], f"two hosts are named {TEST}"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, problem):
    assert problem in refusal(*arguments, status=2)


def test_what_is_typed_does_not_drive_the_terminal():
    assert "no\\x1b[2Jpe" in refusal("no\x1b[2Jpe", status=2)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_is_complete(command):
    done = run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--connect", "--hosts", "--json", "--watch", "--timeout", "--keepalive"):
        assert option in done.stdout
    if not command:
        for name, one in COMMANDS.items():
            assert re.search(rf"^  {name}\n? +{re.escape(one.help[:20])}", done.stdout,
                             re.MULTILINE)
        assert "exit status:" in done.stdout


def test_every_command_has_its_row_in_the_documentation():
    page = (ROOT / "docs" / "command-line.md").read_text()
    _, _, table = page.partition("| virsh | pyvirhost |")
    assert {row.split()[0] for row in re.findall(r"^\| .*?\| `([^`]+)", table, re.MULTILINE)} == (
        COMMANDS.keys())


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_the_hosts_files_of_the_documentation_are_right(page, tmp_path):
    example, = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    path = tmp_path / "fleet.toml"
    path.write_text(example)
    assert [host.name for host in hosts_of_file(str(path))] == ["alpha", "beta"]


def test_help_needs_neither_libvirt_nor_rich():
    program = ("import sys\nfrom pyvirhost.cli import main\ntry:\n    main(['--help'])\n"
               "finally:\n    loaded = [name for name in sys.modules if name.startswith(\n"
               "        ('rich', 'humanize', 'shtab', 'pyvirhost._errors'))]\n"
               "    print(loaded, 'libvirt.so' in open('/proc/self/maps').read(),"
               " file=sys.stderr)\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "[] False\n")


def test_the_shell_completes(tmp_path):
    done = run("--print-completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / "completion"
    script.write_text(done.stdout)

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        return subprocess.run(
            ["bash", "-c", f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
             "$(complete -p pyvirhost | sed 's/.*-F //; s/ .*//') pyvirhost "
             f"'{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""],
            capture_output=True, text=True, timeout=60, check=True).stdout.split()

    assert completed("pyvirhost", "nodecpu") == ["nodecpumap", "nodecpustats"]
    assert completed("pyvirhost", "freecell", "--cell") == ["--cell", "--cellno"]
    assert set(completed("pyvirhost", "nodesuspend", "")) >= {"mem", "disk", "hybrid"}
    assert "--json" in completed("pyvirhost", "uri", "--j")
    assert refusal("--print-completion", "nosuchshell", status=2)

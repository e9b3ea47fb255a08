"""The commands' readings against virsh's answers from the same daemon."""

import json
import re
from xml.etree import ElementTree

import pytest
from command import TEST, between, data, pairs, refusal, run, text, virsh, virsh_numbers

import pyvirhost
from pyvirhost.cli.commands import COMMANDS
from pyvirhost.cli.text import duration, ranges, size

KIB, MIB = 1024, 1024**2


pytestmark = pytest.mark.usefixtures("plain_environment")


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


def told_by_virsh(uri, *command):
    """What virsh fails with, or would if it had the command, which 7.0's has not."""
    told = virsh(uri, *command, status=1)
    if told == "unknown command: 'nodesevinfo'":
        return "this function is not supported by the connection driver: virNodeGetSEVInfo"
    return told


@pytest.mark.parametrize("command", [
    ["nodememstats"], ["node-memory-tune"], ["nodesevinfo"], ["allocpages", "2048", "1"],
    ["nodesuspend", "mem", "60"]], ids=lambda command: command[0])
def test_what_a_driver_does_not_support(test_uri, command):
    if command[0] == "allocpages":
        test_uri = TEST  # in a daemon, libvirt 9.0's test driver can't count the pages before
    told = told_by_virsh(test_uri, *command)
    consent = ["--yes"] if command[0] in ("allocpages", "nodesuspend") else []
    assert refusal("-c", test_uri, *command, *consent) == told
    done = run("-c", test_uri, *command, *consent, "--json")
    assert (done.returncode, done.stderr) == (1, f"pyvirhost: {told}\n")
    assert json.loads(done.stdout) == {
        "error": {"type": "NotSupportedError", "message": told}}


def test_nodesevinfo_and_sysinfo_of_a_real_host(uri):
    for command in ("nodesevinfo", "sysinfo"):
        done = run("-c", uri, command)
        if done.returncode:
            assert refusal("-c", uri, command) == told_by_virsh(uri, command)
        elif command == "sysinfo":
            assert done.stdout.rstrip("\n") == virsh(uri, command)
        else:
            assert {name: str(value) for name, value in data(uri, command).items()} == dict(
                re.findall(r"^(\S+) *: (.*)$", virsh(uri, command), re.MULTILINE))

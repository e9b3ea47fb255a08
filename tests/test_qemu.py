"""The QEMU driver reads this very host: its numbers against the kernel's, virsh's and others'."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pyvirhost

NANOSECONDS = 10**9
# The others are counters, and ksmd may be counting.
SETTINGS = ("shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes")
# A clock tick of /proc/stat, and what the host does between two questions asked one after another.
TICK = NANOSECONDS // os.sysconf("SC_CLK_TCK")


def virsh(uri, *command):
    """The names and numbers in virsh's answer."""
    answer = subprocess.run(["virsh", "-c", uri, *command], capture_output=True, text=True,
                            timeout=60, check=True).stdout
    return {name.strip(): int(number)
            for name, number in re.findall(r"^(.+?)\s*:\s+(\d+)\b", answer, re.MULTILINE)}


def libvirt_python(uri, expression):
    """What libvirt-python says, in a process of its own."""
    program = ("import json, libvirt, sys\nconnection = libvirt.open(sys.argv[1])\n"
               "print(json.dumps(eval(sys.argv[2])))")
    return json.loads(subprocess.run(
        [sys.executable, "-c", program, uri, expression], capture_output=True, text=True,
        timeout=60, check=True).stdout)


def proc_stat():
    """CPU -> (user and nice, system, irq and softirq, idle, iowait) in ns; "cpu" is their sum."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu"):
            name, *ticks = line.split()
            user, nice, system, idle, iowait, irq, softirq = (int(t) * TICK for t in ticks[:7])
            times[name] = {"user": user + nice, "kernel": system + irq + softirq, "idle": idle,
                           "iowait": iowait}
    return times


def meminfo(path="/proc/meminfo"):
    return {name: int(number) for name, number in re.findall(
        r"(\w+):\s+(\d+) kB", Path(path).read_text())}


def between(before, value, after, slack=0):
    assert min(before, after) - slack <= value <= max(before, after) + slack


def test_cpu_times_are_the_kernels(qemu):
    before = proc_stat()
    total, per_cpu = qemu.cpu_stats(), qemu.per_cpu_stats()
    after = proc_stat()
    assert total.unit == per_cpu.unit == "ns"
    for field in ("user", "kernel", "idle", "iowait"):
        # Older libvirts count irq and softirq as kernel time, newer ones may count less.
        slack = 0 if field != "kernel" else TICK
        between(before["cpu"][field], total[field], after["cpu"][field], slack)
        for cpu, row in per_cpu.items():
            between(before[f"cpu{cpu}"][field], row[field], after[f"cpu{cpu}"][field], slack)
    assert f"cpu{per_cpu.index[-1]}" in before
    assert len(per_cpu) == sum(name != "cpu" for name in before)


def test_one_cpus_times_are_a_row_of_the_table(qemu):
    for cpu in qemu.cpu_map():
        one = qemu.cpu_stats(cpu)
        assert one.idle <= qemu.per_cpu_stats()[cpu].idle


def test_cpu_map_is_the_kernels(qemu):
    cpu_map = qemu.cpu_map()

    def numbers(name):
        found = set()
        for span in Path(f"/sys/devices/system/cpu/{name}").read_text().strip().split(","):
            first, _, last = span.partition("-")
            found.update(range(int(first), int(last or first) + 1))
        return found

    assert set(cpu_map) == numbers("online")
    assert cpu_map.present == max(numbers("present")) + 1
    assert cpu_map.online == len(numbers("online"))


def test_memory_is_the_kernels(qemu):
    before = meminfo()
    stats = qemu.memory_stats()
    after = meminfo()
    assert stats.unit == "KiB"
    assert stats.total == before["MemTotal"]
    for field, name in (("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached")):
        between(before[name], stats[field], after[name], slack=64 * 1024)


def test_the_memory_of_cells_is_the_kernels(qemu):
    table = qemu.per_cell_memory_stats()
    free = qemu.cells_free_memory()
    assert table.index == tuple(range(len(free)))
    for cell, row in table.items():
        text = Path(f"/sys/devices/system/node/node{cell}/meminfo").read_text()
        numbers = {name: int(number) for name, number in re.findall(r"(\w+):\s+(\d+) kB", text)}
        assert row.total == numbers["MemTotal"]
        between(numbers["MemFree"], row.free, numbers["MemFree"], slack=64 * 1024)
        between(row.free * 1024, free[cell], row.free * 1024, slack=64 * 1024**2)
    between(sum(free.values()), qemu.free_memory(), sum(free.values()), slack=64 * 1024**2)


def test_free_pages_are_the_kernels(qemu):
    sizes = page_sizes(qemu)
    counts = qemu.free_pages(sizes)
    assert counts.page_sizes == tuple(sizes)
    assert list(counts.cells) == list(range(len(qemu.cells_free_memory())))
    for cell in counts.cells:
        for size in sizes:
            pool = Path(f"/sys/devices/system/node/node{cell}/hugepages/hugepages-{size}kB")
            if pool.exists():
                assert counts[cell, size] == int((pool / "free_hugepages").read_text())
        assert counts[cell, min(sizes)] > 0
    # More cells than there are is not an error, only those that exist are told.
    assert qemu.free_pages(sizes[:1], 0, 100).cells == counts.cells


def page_sizes(connection):
    pages = ElementTree.fromstring(connection.capabilities()).findall("host/cpu/pages")
    return [int(page.get("size")) for page in pages]


def test_virsh_says_the_same(qemu, daemon):
    info = virsh(daemon.qemu_uri, "nodeinfo")
    assert qemu.node_info().to_dict() == {
        "model": qemu.node_info().model, "memory": info["Memory size"], "cpus": info["CPU(s)"],
        "mhz": qemu.node_info().mhz, "nodes": info["NUMA cell(s)"],
        "sockets": info["CPU socket(s)"], "cores": info["Core(s) per socket"],
        "threads": info["Thread(s) per core"]}
    before = qemu.cpu_stats()
    told = virsh(daemon.qemu_uri, "nodecpustats")
    after = qemu.cpu_stats()
    for virsh_name, field in (("user", "user"), ("system", "kernel"), ("idle", "idle"),
                              ("iowait", "iowait")):
        between(before[field], told[virsh_name], after[field])
    before, told, after = (
        qemu.memory_stats(), virsh(daemon.qemu_uri, "nodememstats"), qemu.memory_stats())
    for field in before:
        between(before[field], told[field], after[field], slack=64 * 1024)
    parameters = qemu.memory_parameters()
    told = virsh_parameters(daemon.qemu_uri)
    assert told.keys() == parameters.keys()
    for name in SETTINGS:
        assert told[name] == parameters[name]
    cpu_map = qemu.cpu_map()
    told = virsh(daemon.qemu_uri, "nodecpumap")
    assert (told["CPUs present"], told["CPUs online"]) == (cpu_map.present, cpu_map.online)
    assert f"QEMU {qemu.version()}" in virsh_text(daemon.qemu_uri, "version")
    assert str(qemu.lib_version()) in virsh_text(daemon.qemu_uri, "version")
    assert qemu.hostname() == virsh_text(daemon.qemu_uri, "hostname")
    assert qemu.cpu_model_names("x86_64") == virsh_text(
        daemon.qemu_uri, "cpu-models", "x86_64").split()


def virsh_text(uri, *command):
    return subprocess.run(["virsh", "-c", uri, *command], capture_output=True, text=True,
                          timeout=60, check=True).stdout.strip()


def virsh_parameters(uri):
    return {name: int(number) for name, number in re.findall(
        r"(shm_\w+)\s+(\d+)", virsh_text(uri, "node-memory-tune"))}


def test_libvirt_python_says_the_same(qemu, daemon):
    def other(expression):
        return libvirt_python(daemon.qemu_uri, f"connection.{expression}")

    info = qemu.node_info()
    model, mebibytes, *rest = other("getInfo()")
    assert [model, mebibytes] == [info.model, info.memory // 1024]
    assert rest == list(info.to_dict().values())[2:]
    for ours, theirs in ((qemu.cpu_stats, "getCPUStats(-1)"),
                         (lambda: qemu.cpu_stats(0), "getCPUStats(0)")):
        before, told, after = ours(), other(theirs), ours()
        assert list(told) == list(before)
        for field in told:
            between(before[field], told[field], after[field])
    before, told, after = qemu.memory_stats(), other("getMemoryStats(-1)"), qemu.memory_stats()
    assert list(told) == list(before)
    for field in told:
        between(before[field], told[field], after[field], slack=64 * 1024)
    told, parameters = other("getMemoryParameters()"), qemu.memory_parameters()
    assert told.keys() == parameters.keys()
    for name in SETTINGS:
        assert told[name] == parameters[name]
    present, bits, online = other("getCPUMap()")
    cpu_map = qemu.cpu_map()
    assert (present, bits, online) == (
        cpu_map.present, list(cpu_map.to_dict().values()), cpu_map.online)
    assert other("getSecurityModel()") == list(qemu.security_model())
    assert other("getCapabilities()") == qemu.capabilities()
    assert other("getVersion()") == int(qemu.version())
    assert other("getLibVersion()") == int(qemu.lib_version())
    assert other("getHostname()") == qemu.hostname()
    assert other("getMaxVcpus(None)") == qemu.max_vcpus()
    assert other("getMaxVcpus('qemu')") == qemu.max_vcpus("qemu")
    assert other("getType()") == qemu.type() == "QEMU"
    sizes = page_sizes(qemu)
    told = other(f"getFreePages({sizes}, 0, 1)")["0"]
    ours = qemu.free_pages(sizes).to_dict()[0]
    assert [int(size) for size in told] == sizes
    assert {size: count for size, count in ours.items() if size != 4} == {
        int(size): count for size, count in told.items() if size != "4"}


def test_cpus_compare_and_have_a_baseline(qemu):
    host = ElementTree.fromstring(qemu.capabilities()).find("host/cpu")
    xml = ElementTree.tostring(host, encoding="unicode")
    same = pyvirhost.CPUCompareResult.IDENTICAL
    assert qemu.compare_cpu(xml) is same
    baseline = qemu.baseline_cpu([xml, xml])
    # A newer libvirt names the model that comes nearest, with what it lacks or has besides.
    assert ElementTree.fromstring(baseline).find("model").text in qemu.cpu_model_names(
        host.find("arch").text)
    longer = qemu.baseline_cpu(
        [xml], pyvirhost.BaselineCPUFlags.EXPAND_FEATURES)
    assert len(ElementTree.fromstring(longer)) > len(ElementTree.fromstring(baseline))


def test_hypervisor_cpus_compare_and_have_a_baseline(qemu):
    cpu = "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"
    for options in ({"virttype": "qemu"}, {"virttype": "qemu", "arch": "x86_64"},
                    {"virttype": "qemu", "arch": "x86_64", "machine": "q35",
                     "emulator": "/usr/bin/qemu-system-x86_64"}):
        result = qemu.compare_hypervisor_cpu(cpu, **options)
        assert result is pyvirhost.CPUCompareResult.SUPERSET
        baseline = qemu.baseline_hypervisor_cpu([cpu, cpu], **options)
        assert ElementTree.fromstring(baseline).find("model").text == "qemu64"
    with pytest.raises(pyvirhost.LibvirtError):
        qemu.compare_hypervisor_cpu(cpu, emulator="/no/such/emulator")


def test_sev_and_smbios_are_told_or_not_supported(qemu):
    if Path("/dev/sev").exists():
        assert qemu.sev_info()["cbitpos"] > 0
    else:
        with pytest.raises(pyvirhost.NotSupportedError, match="SEV"):
            qemu.sev_info()
    try:
        assert qemu.sysinfo().startswith("<sysinfo")
    except pyvirhost.NotSupportedError as error:
        assert "SMBIOS" in error.message  # noqa: PT017


def test_a_cpu_that_goes_offline_between_map_and_statistics(proxy):
    get_cpu_map = 293
    with pyvirhost.open(proxy.qemu_uri) as connection:
        right = connection.per_cpu_stats().index
        offline = (max(right) // 8 + 1) * 8
        maps = []

        def one_cpu_more(procedure, body):
            # The reply is the bitmap, its length first and padded to four bytes, the CPUs online
            # and the CPUs present.
            if procedure != get_cpu_map or maps:
                return body
            maps.append(body)
            size = int.from_bytes(body[:4], "big")
            bits = (body[4:4 + size] + b"\1").ljust((size + 4) // 4 * 4, b"\0")
            return b"".join(((size + 1).to_bytes(4, "big"), bits,
                             (len(right) + 1).to_bytes(4, "big"),
                             (offline + 1).to_bytes(4, "big")))

        proxy.change_reply = one_cpu_more
        assert connection.per_cpu_stats().index == right
        assert maps
        maps.clear()
        assert offline in connection.cpu_map()

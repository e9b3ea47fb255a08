"""The commands that compare CPUs against virsh's answers from the same daemon."""

import json
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, ROOT, TEST, data, refusal, run, text, virsh

CPU = "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"


pytestmark = pytest.mark.usefixtures("plain_environment")


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
    ("", "has no <cpu>, alone, in a domain or in capabilities"),
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
    one, = json.loads(done.stdout)
    assert one == {"cpu": one["cpu"]}
    assert one["cpu"].strip() == told
    done = run(*hosts, "cpu-compare", "--json")
    assert [host["host_cpu"] for host in json.loads(done.stdout)] == ["identical", "identical"]
    assert text(daemon.qemu_uri, "cpu-baseline") == told
    options = ("--virttype", "qemu")
    assert run(*hosts, "hypervisor-cpu-baseline", *options).stdout.strip() == virsh(
        daemon.qemu_uri, "hypervisor-cpu-baseline", str(cpus), *options)


def test_there_is_no_cpu_of_a_fleet_when_a_host_is_missing(daemon, tmp_path):
    gone = f"qemu+unix:///session?socket={tmp_path}/gone"
    hosts = ("-c", daemon.qemu_uri, "-c", gone, "cpu-baseline")
    assert refusal(*hosts).startswith(f"{gone}: cannot open {gone}: ")
    done = run(*hosts, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    failed, = json.loads(done.stdout)
    assert (failed["host"], failed["error"]["type"]) == (gone, "LibvirtError")
    line = refusal("-c", daemon.qemu_uri, "-c", TEST, "cpu-baseline")
    assert line == f"{TEST}: the host's capabilities do not include its CPU model"

"""The arguments of the command line, its help and its completion."""

import json
import re
import subprocess
import sys

import pytest
from command import ROOT, TEST, refusal, run

from pyvirhost.cli.commands import COMMANDS
from pyvirhost.cli.hostsfile import hosts_of_file
from pyvirhost.cli.parser import arguments_of

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_options_stand_before_or_after_the_command(test_uri):
    told = run("-c", TEST, "-c", test_uri, "--json", "hostname").stdout
    assert len(json.loads(told)) == 2
    for arguments in (["hostname", "--json", "-c", TEST, "--connect", test_uri],
                      ["--json", "-c", TEST, "hostname", "-c", test_uri],
                      ["-c", TEST, "hostname", "-c", test_uri, "--json"]):
        assert run(*arguments).stdout == told
    assert arguments_of(["--timeout", "3", "uri"]).timeout == 3
    assert arguments_of(["--timeout", "3", "uri", "--timeout", "4"]).timeout == 4


def test_libvirt_chooses_without_a_uri():
    done = run("uri", environment={"LIBVIRT_DEFAULT_URI": TEST})
    assert done.stdout == f"{TEST}\n"


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--js"], "unrecognized arguments: --js"),
    (["-c"], "expected one argument"),
    (["nosuchcommand"], "invalid choice: 'nosuchcommand'"),
    (["nodeinfo", "operand"], "unrecognized arguments: operand"),
    (["--watch", "0"], "must be a number of seconds, at least 0.001, not '0'"),
    (["--watch", "-1"], "--watch"),
    (["--watch", "0.0009"], "at least 0.001"),
    (["--watch", "nan"], "at least 0.001"),
    (["--timeout", "inf"], "at least 0.001"),
    (["--timeout", "soon"], "at least 0.001"),
    (["--keepalive", "5"], "must be INTERVAL:COUNT"),
    (["--keepalive", "0:3"], "must be INTERVAL:COUNT"),
    (["--keepalive", "5:-3"], "must be INTERVAL:COUNT"),
    (["--keepalive", "99999999999:3"], "must be INTERVAL:COUNT"),
    (["--parallel", "0"], "must be more than 0"),
    (["nodecpustats", "--percent", "--interval", "0"], "at least 0.001"),
    (["freecell", "--cell", "-1"], "--cell"),
    (["freecell", "--cell", "x"], "must be a number, not 'x'"),
    (["freecell", "--cell", "99999999999"], "is too big"),
    (["freecell", "--cell", "0", "--all"], "not allowed with argument"),
    (["freepages", "--pagesize", "2X"], "must be a page size in KiB, or with a unit as in 2M"),
    (["freepages", "--pagesize", "0"], "must be a page size"),
    (["freepages", "--pagesize", "9999999G"], "must be a page size"),
    (["allocpages", "2M"], "PAGECOUNT"),
    (["nodesuspend", "nowhere", "60"], "invalid choice: 'nowhere'"),
    (["node-memory-tune", "--dry-run"], "--dry-run needs a parameter to set"),
    (["node-memory-tune", "--shm-merge-across-nodes", "2"], "must be 0 or 1"),
    (["-c", TEST, "-c", TEST], f"two hosts are named {TEST!r}"),
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

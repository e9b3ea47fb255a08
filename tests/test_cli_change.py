"""The commands that change a host, and those who have to consent."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import TEST, Terminal, data, refusal, text, virsh_numbers

MIB = 1024**2
KSM = Path("/sys/kernel/mm/ksm")
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


pytestmark = pytest.mark.usefixtures("plain_environment")


CHANGES = [(["allocpages", "2M", "1"], "Set the host to 1 page of 2 MiB"),
           (["allocpages", "1G", "3", "--cell", "1", "--add"], "Give cell 1 3 pages of 1 GiB more"),
           (["allocpages", "4", "2", "--all"], "Set each cell to 2 pages of 4 KiB"),
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
        "no terminal to ask on; use --yes")


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
        settings = ["node-memory-tune", "--shm-pages-to-scan", str(scan + 11),
                  "--shm-sleep-millisecs", "2500"]
        changes = {"pages_to_scan": {"before": scan, "after": scan + 11},
                   "sleep_seconds": {"before": 0.02, "after": 2.5}}
        assert data(uri, *settings, "--dry-run") == {"dry_run": True, "changes": changes}
        assert text(uri, *settings, "--dry-run").splitlines()[0].split() == [
            "Parameter", "Was", "Would", "be"]
        assert int((KSM / "pages_to_scan").read_text()) == scan
        assert data(uri, *settings) == {"dry_run": False, "changes": changes}
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

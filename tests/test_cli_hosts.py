"""Several hosts at once, and again and again."""

import json
import re
import signal
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from itertools import islice

import pytest
from command import COMMAND, ROOT, TEST, data, pairs, refusal, run, silent_servers, virsh

MIB = 1024**2


pytestmark = pytest.mark.usefixtures("plain_environment")


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


def test_no_more_hosts_than_requested_are_asked_at_the_same_time(tmp_path):
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
        assert re.search("no answer for 0.5 s, since ", refusal(
            "-c", silent, "--timeout", "0.5", "freecell"))


def test_a_call_that_hangs_does_not_hold_up_the_end(proxy):
    get_hostname, over = 59, threading.Event()

    def keep(procedure, body):
        if procedure == get_hostname:
            over.wait(60)
        return body

    proxy.change_reply = keep
    try:
        assert re.match(r"no answer for 2\.\d s, since ", refusal(
            "-c", proxy.qemu_uri, "--timeout", "2", "--keepalive", "off", "hostname"))
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


def test_names_that_look_alike_are_one_name(tmp_path):
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(f'[hosts]\n"caf\u00e9" = "{TEST}"\n')
    other.write_text(f'[hosts]\n"cafe\u0301" = "{TEST}"\n')
    assert refusal("--hosts", str(one), "--hosts", str(other), "hostname", status=2).startswith(
        "two hosts are named ")


def test_with_a_hosts_file_json_is_a_list(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(f'[hosts]\nalpha = "{TEST}"\n')
    hosts = ("--hosts", str(path), "--json")
    assert json.loads(run(*hosts, "freecell").stdout) == [{"host": "alpha", "free_bytes": 3 * MIB}]
    done = run(*hosts, "nodememstats")
    failed, = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (failed["host"], failed["error"]["type"]) == ("alpha", "NotSupportedError")


def test_what_is_typed_overrides_the_hosts_file(tmp_path):
    path = tmp_path / "fleet.toml"
    with silent_servers(tmp_path, 2) as ((first, _), (second, _)):
        path.write_text(f"""
            [hosts]
            slow = {{ uri = "{first}", timeout = 50 }}
            other = "{second}"
        """)
        hosts = ("--hosts", str(path), "hostname", "--json")
        for failed in json.loads(run(*hosts, "--timeout", "0.5").stdout):
            assert "no answer for 0.5 s" in failed["error"]["message"]
        path.write_text(path.read_text().replace("50", "0.7").replace(
            f'"{second}"', f'{{ uri = "{second}", timeout = 0.3 }}'))
        for failed, seconds in zip(json.loads(run(*hosts).stdout), (0.7, 0.3), strict=True):
            assert f"no answer for {seconds} s" in failed["error"]["message"]


def test_hosts_with_settings_of_their_own_are_no_more_at_a_time(tmp_path):
    path = tmp_path / "fleet.toml"
    with silent_servers(tmp_path, 2) as ((first, one), (second, other)):
        path.write_text(f"""
            [hosts]
            one = {{ uri = "{first}", timeout = 40 }}
            other = {{ uri = "{second}", timeout = 50 }}
        """)
        process = subprocess.Popen(
            [*COMMAND, "--hosts", str(path), "--parallel", "1", "poll", "--interval", "30",
             "--once"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            client, _ = one.accept()
            with client:
                assert client.recv(4)
                other.setblocking(False)
                with pytest.raises(BlockingIOError):
                    other.accept()
        finally:
            process.kill()
            process.wait(60)


def test_a_wrong_hosts_file_is_one_line_and_status_2(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text('[hosts]\nalpha = "test:///default"\n\nbeta = { url = "test:///x" }\n')
    assert refusal("--hosts", str(path), "nodeinfo", status=2) == (
        f"{path}, line 4: hosts.beta.url is unknown, not one of uri, readonly, keepalive, timeout")
    assert refusal("nodeinfo", "--hosts", "/no/such", status=2) == (
        "cannot read /no/such: No such file or directory")


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
        for message in ("no answer for 0.3 s, since ", "no answer for 1."):
            watched_until(process, lambda host, message=message: message in str(host.get("error")))
        own_daemon.process.send_signal(signal.SIGCONT)
        watched_until(process, lambda host: "free_bytes" in host)


@pytest.mark.parametrize("arguments", [
    ["allocpages", "2M", "1", "--yes"], ["nodesuspend", "mem", "60", "--yes"],
    ["node-memory-tune", "--shm-pages-to-scan", "9"]], ids=lambda arguments: arguments[0])
def test_what_changes_a_host_is_not_repeated(arguments):
    assert refusal("-c", TEST, "--watch", "1", *arguments, status=2) == (
        f"--watch is for readings, and {arguments[0]} changes the host")

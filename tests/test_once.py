"""Many hosts, each read once, by this process or by an executor."""

import contextlib
import multiprocessing
import os
import socket
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from daemon import stopped, wait_until
from fleets import CONNECT_OPEN, HERE, hosts_of, in_child, uris
from proxy import Proxy

import pyvirhost
from pyvirhost.poll import once

pytestmark = pytest.mark.thread_unsafe(reason="counts the process's threads and descriptors")


def test_a_sweep_reads_each_host_once(fleet):
    hosts = uris(fleet)
    samples = pyvirhost.poll_once(hosts)
    assert list(samples) == list(hosts)
    assert {name: sample.snapshot.uri for name, sample in samples.items()} == hosts
    assert pyvirhost.poll_once([]) == {}


def test_a_sweep_ends_at_its_deadline(fleet):
    with stopped(fleet[0]):
        samples = pyvirhost.poll_once(uris(fleet[:3]), timeout=1)
    assert isinstance(samples["host0"].error, pyvirhost.OperationTimeoutError)
    assert samples["host0"].duration > 0.9
    assert samples["host1"].error is samples["host2"].error is None


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_sweep_by_an_executor_keeps_its_connections(fleet, kind):
    with Proxy(fleet[0]) as proxy:
        uris = {"one": proxy.test_uri, "two": fleet[1].test_uri, "bad": "nonsense:///"}
        hosts = hosts_of(uris, auth=pyvirhost.PasswordAuth("a", "b"))
        executor = ThreadPoolExecutor(4) if kind == "threads" else ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"))
        with executor:
            for _ in range(3):
                samples = pyvirhost.poll_once(hosts, timeout=60, executor=executor)
                assert list(samples) == list(uris)
                assert samples["one"].snapshot.uri == proxy.test_uri
                assert samples["two"].snapshot.uri == fleet[1].test_uri
                assert isinstance(samples["bad"].error, pyvirhost.LibvirtError)
        assert proxy.calls.count(CONNECT_OPEN) == 1
        close_kept()


def close_kept():
    for kept in once._kept.values():
        kept.link.close()
    once._kept.clear()


def sweep(fleet, executor):
    return pyvirhost.poll_once(uris(fleet[:1]), timeout=30, executor=executor)["host0"]


def test_an_executors_tasks_never_share_a_connection_at_a_time(fleet):
    with ThreadPoolExecutor(2) as executor:
        try:
            assert sweep(fleet, executor).snapshot
            with stopped(fleet[0]):
                for _ in range(3):
                    samples = pyvirhost.poll_once(
                        uris(fleet[:1]), timeout=0.5, executor=executor)
                    assert isinstance(samples["host0"].error, pyvirhost.OperationTimeoutError)
                # It keeps one of the executor's workers, not both.
                other = pyvirhost.poll_once([fleet[1].test_uri], timeout=10, executor=executor)
                assert other[fleet[1].test_uri].snapshot
            wait_until(lambda: sweep(fleet, executor).snapshot, "the host to be back")
        finally:
            close_kept()


def test_kept_connections_are_not_those_of_a_forked_child(fleet):
    with ThreadPoolExecutor(1) as executor:
        assert sweep(fleet, executor).snapshot

    def again():
        with ThreadPoolExecutor(1) as executor:
            return sweep(fleet, executor).snapshot

    assert in_child(lambda: again() is not None) == 0
    assert again()
    close_kept()


def test_kept_connections_that_nobody_uses_are_closed(fleet, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(1) as executor:
        assert pyvirhost.poll_once(uris(fleet[:3]), timeout=30, executor=executor)["host0"].snapshot
        monkeypatch.setattr("pyvirhost.poll.once._KEPT", 0.0)
        pyvirhost.poll_once({"here": HERE}, timeout=30, executor=executor)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the connections to close")
    close_kept()


@pytest.mark.parametrize(("limits", "at_once"), [
    ({"max_connects": 2}, 2), ({"workers": 7}, 4), ({}, 128)])
def test_as_many_are_connected_at_a_time_as_may_be(tmp_path, limits, at_once):
    path = str(tmp_path / "silent")
    hosts = {f"host{number}": f"test+unix:///default?socket={path}"
             for number in range(2 * at_once)}
    accepted = []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        silent.settimeout(1)
        # They keep their places for a twentieth of the time, which is three seconds.
        sweep = threading.Thread(
            target=pyvirhost.poll_once, args=(hosts,),
            kwargs={"timeout": 60, **limits})
        sweep.start()
        with contextlib.suppress(TimeoutError):
            while True:
                accepted.append(silent.accept()[0])
        first = len(accepted)
        silent.settimeout(20)
        accepted.append(silent.accept()[0])
    # Closed, it refuses all others.
    for connection in accepted:
        connection.close()
    sweep.join(30)
    assert not sweep.is_alive()
    assert first == at_once

"""The executor of another machine: Dask's, with a cluster of two processes."""

import os
import signal
import threading

import pytest
from daemon import stopped, wait_until
from distributed import Client, LocalCluster
from fleets import CONNECT_OPEN, HERE, uris
from proxy import Proxy

import pyvirhost

pytestmark = [
    pytest.mark.thread_unsafe(reason="starts processes"),
    # Dask leaves sockets and loops of its own to be collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def client():
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True,
                      dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def test_each_sweep_reads_anew_over_connections_that_stay(fleet, client):
    executor = client.get_executor()
    with Proxy(fleet[0]) as proxy:
        hosts = {"remote": proxy.test_uri, "here": HERE, "bad": "nonsense:///"}
        sweeps = [pyvirhost.poll_once(hosts, timeout=60, executor=executor) for _ in range(6)]
        for samples in sweeps:
            assert samples["remote"].snapshot.uri == proxy.test_uri
            assert samples["here"].snapshot.node_info.cpus == 16
            assert isinstance(samples["bad"].error, pyvirhost.LibvirtError)
        began = [samples["remote"].started_at for samples in sweeps]
        assert began == sorted(set(began))
        # One for each of the processes, if both have read it.
        assert proxy.calls.count(CONNECT_OPEN) <= 2


def test_a_task_that_hangs_costs_its_hosts_samples_only(fleet, client):
    executor = client.get_executor()
    hosts = uris(fleet[:3])
    with stopped(fleet[0]):
        for _ in range(5):  # with four threads in all, which it would soon have filled
            samples = pyvirhost.poll_once(hosts, timeout=2, executor=executor)
            assert isinstance(samples["host0"].error, pyvirhost.OperationTimeoutError)
            assert samples["host1"].error is samples["host2"].error is None
        last = samples["host1"].started_at
    samples = pyvirhost.poll_once(hosts, timeout=60, executor=executor)
    assert samples["host0"].error is None
    # What it said to the earlier question was thrown away.
    assert samples["host0"].started_at > last


def test_a_worker_that_dies_costs_its_hosts_samples_only(fleet, client):
    executor = client.get_executor()
    hosts = {**uris(fleet[:3]), "here": HERE}
    before = set(client.run(os.getpid).values())
    samples = {}

    def sweep():
        samples.update(pyvirhost.poll_once(hosts, timeout=10, executor=executor))

    with stopped(fleet[0]):
        sweeping = threading.Thread(target=sweep)
        sweeping.start()
        wait_until(lambda: any(client.processing().values()), "the tasks")
        os.kill(min(before), signal.SIGKILL)
        sweeping.join(60)
    assert isinstance(samples.pop("host0").error, pyvirhost.OperationTimeoutError)
    assert [sample.error for sample in samples.values()] == [None] * 3
    wait_until(lambda: len(set(client.run(os.getpid).values()) - before) == 1, "a new worker")
    assert all(sample.error is None for sample in pyvirhost.poll_once(
        hosts, timeout=60, executor=executor).values())

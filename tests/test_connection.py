"""The life of a connection, and what the test driver is known to say."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import socket
import threading
import weakref
from pathlib import Path

import pytest
from daemon import stopped, wait_until

import pyvirhost
from pyvirhost import constants

# name -> what it takes; every method that asks libvirt something
CALLS = {
    "baseline_cpu": (["<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"],),
    "baseline_hypervisor_cpu": (["<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"],),
    "alloc_pages": ({2048: 0},),
    "capabilities": (),
    "cells_free_memory": (),
    "compare_cpu": ("<cpu/>",),
    "compare_hypervisor_cpu": ("<cpu/>",),
    "cpu_map": (),
    "cpu_model_names": ("x86_64",),
    "cpu_stats": (),
    "free_memory": (),
    "free_pages": ([4],),
    "hostname": (),
    "is_alive": (),
    "is_encrypted": (),
    "is_secure": (),
    "lib_version": (),
    "max_vcpus": (),
    "memory_parameters": (),
    "memory_stats": (),
    "node_info": (),
    "per_cell_memory_stats": (),
    "per_cpu_stats": (),
    "ping": (),
    "ref": (),
    "register_close_callback": (lambda connection, reason: None,),
    "security_model": (),
    "set_identity": ({"user-name": "somebody"},),
    "set_keepalive": (5, 3),
    "set_memory_parameters": ({"shm_pages_to_scan": 100},),
    "sev_info": (),
    "snapshot": (),
    "suspend_for_duration": (0, 60),
    "sysinfo": (),
    "type": (),
    "unregister_close_callback": (),
    "uri": (),
    "version": (),
}
WITHOUT_ROUND_TRIP = {"is_alive", "ref", "set_keepalive", "type", "uri"}
# One goes with the other.
PAIRED = {"register_close_callback", "unregister_close_callback"}
# The number of the procedure in libvirt's protocol.
CLOSE = 2
# Never tried on a driver of a real host.
DANGEROUS = {"suspend_for_duration"}


def test_every_method_is_in_the_list_that_tests_go_through():
    methods = {
        name for name in dir(pyvirhost.Connection)
        if not name.startswith("_") and callable(getattr(pyvirhost.Connection, name))
    }
    assert methods == {*CALLS, "close"}


def check_test_driver(connection):
    """Hold every reading of ``test:///default`` against what that driver is made to say."""
    assert connection.type() == "TEST"
    assert connection.version() == (0, 0, 2)
    assert connection.hostname() == socket.gethostname()
    assert connection.lib_version() == pyvirhost.lib_version()
    assert connection.is_alive() is True
    assert connection.is_encrypted() is False
    assert connection.ping() is None
    assert connection.max_vcpus() == 32
    assert connection.node_info().to_dict() == {
        "model": "i686", "memory": 3145728, "cpus": 16, "mhz": 1400,
        "nodes": 2, "sockets": 2, "cores": 2, "threads": 2,
    }
    cpu_map = connection.cpu_map()
    assert (cpu_map.present, cpu_map.online, list(cpu_map)) == (8, 3, [0, 2, 4])
    assert bytes(cpu_map) == b"\x15"
    times = connection.cpu_stats()
    assert (times.user, times.kernel, times.idle, times.iowait) == (
        9797400000, 34678723400000, 87264900000, 763600000)
    assert times.unit == "ns"
    per_cpu = connection.per_cpu_stats()
    assert per_cpu.index == (0, 2, 4)
    assert all(row == connection.cpu_stats(cpu) for cpu, row in per_cpu.items())
    assert connection.free_memory() == 3145728
    assert connection.cells_free_memory() == {0: 2097152, 1: 4194304}
    assert connection.cells_free_memory(1).to_dict() == {1: 4194304}
    assert connection.cells_free_memory(0, 1) == {0: 2097152}
    assert connection.capabilities().startswith("<capabilities>")
    assert connection.sysinfo().startswith("<sysinfo type='smbios'>")
    assert "Haswell" in connection.cpu_model_names("x86_64")
    assert "Haswell" in connection.baseline_cpu(
        ["<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"])
    if pyvirhost.lib_version() >= (7, 5, 0):
        assert connection.security_model() == ("testSecurity", "")


def test_every_reading_of_the_test_driver(connection):
    check_test_driver(connection)
    assert connection.uri() == "test:///default"
    assert connection.is_secure() is True
    # Not in a daemon, which takes this driver's 0 before libvirt 11.3 for a failure. Its numbers
    # depend on the cell since then.
    if pyvirhost.lib_version() < (11, 3, 0):
        assert connection.free_pages([4, 2048]).to_dict() == {
            0: {4: 19, 2048: 45}, 1: {4: 97, 2048: 201}}
    else:
        assert connection.free_pages([4, 2048]).to_dict() == {
            0: {4: 7, 2048: 21}, 1: {4: 19, 2048: 45}}
    assert connection.free_pages([4], 1, 1).to_dict() == {1: {4: 19}}


def test_every_reading_over_a_socket(remote):
    check_test_driver(remote)
    assert remote.is_secure() is ("+unix" in remote.uri())


@pytest.mark.parametrize("name", [
    "alloc_pages", "baseline_hypervisor_cpu", "compare_cpu", "compare_hypervisor_cpu",
    "memory_parameters", "memory_stats", "per_cell_memory_stats", "set_memory_parameters",
    "sev_info", "suspend_for_duration",
])
def test_what_the_test_driver_lacks_is_not_supported(connection, name):
    with pytest.raises(pyvirhost.NotSupportedError) as caught:
        getattr(connection, name)(*CALLS[name])
    assert caught.value.code == constants.VIR_ERR_NO_SUPPORT
    assert isinstance(caught.value, NotImplementedError)


def test_a_host_with_one_cpu(open_node):
    host = open_node("<cpu><nodes>1</nodes><sockets>1</sockets><cores>1</cores><threads>1</threads>"
                     "<active>1</active><mhz>900</mhz><model>tiny</model></cpu>"
                     "<memory>65536</memory>")
    info = host.node_info()
    assert (info.model, info.memory, info.cpus, info.mhz, info.max_cpus) == (
        "tiny", 65536, 1, 900, 1)
    assert constants.VIR_NODEINFO_MAXCPUS(info) == 1


def test_a_host_with_256_cpus_of_which_some_are_offline(open_node):
    host = open_node("<cpu><nodes>4</nodes><sockets>2</sockets><cores>16</cores>"
                     "<threads>2</threads><active>250</active><model>big</model></cpu>")
    info = host.node_info()
    assert (info.cpus, info.nodes, info.sockets, info.cores, info.threads) == (250, 4, 2, 16, 2)
    assert info.max_cpus == constants.VIR_NODEINFO_MAXCPUS(info) == 256


def test_a_model_name_fills_its_field_to_the_last_byte(open_node):
    host = open_node(f"<cpu><model>{'m' * 31}</model></cpu>")
    assert host.node_info().model == "m" * 31


def test_a_driver_without_cells_has_as_many_as_its_node_information_says(open_node):
    host = open_node("<cpu><nodes>3</nodes></cpu>")
    with pytest.raises(pyvirhost.InvalidArgumentError):
        host.cells_free_memory()
    assert list(host.free_pages([4]).cells) == [0, 1, 2]


def test_lib_version_of_the_library_is_an_ordered_version():
    version = pyvirhost.lib_version()
    assert version >= (7, 0, 0)
    assert int(version) == version.major * 1_000_000 + version.minor * 1_000 + version.release
    assert str(version) == "{}.{}.{}".format(*version)


def test_initialize_may_be_called_often():
    assert pyvirhost.initialize() is None
    assert pyvirhost.initialize() is None


def test_open_without_a_uri_leaves_the_choice_to_libvirt(monkeypatch):
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    with pyvirhost.open() as connection:
        assert connection.uri() == "test:///default"


@pytest.mark.parametrize("how", [
    {"readonly": True}, {"flags": pyvirhost.ConnectFlags.RO}, {"flags": 1}])
def test_a_read_only_connection_reads_and_may_not_write(daemon, how):
    with pyvirhost.open(daemon.qemu_uri, **how) as connection:
        assert connection.node_info().cpus > 0
        for name in ("alloc_pages", "set_memory_parameters", "suspend_for_duration",
                     "compare_hypervisor_cpu", "baseline_hypervisor_cpu", "sev_info"):
            with pytest.raises(pyvirhost.AccessDeniedError) as caught:
                getattr(connection, name)(*CALLS[name])
            assert isinstance(caught.value, PermissionError)


def test_close_is_idempotent_and_a_with_block_closes():
    with pyvirhost.open("test:///default") as connection:
        assert not connection.closed
    assert connection.closed
    connection.close()
    connection.close()
    assert repr(connection) == "<Connection closed>"


def test_repr_says_where_to():
    with pyvirhost.open("test:///default") as connection:
        assert repr(connection) == "<Connection 'test:///default'>"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_after_close_says_so(name):
    connection = pyvirhost.open("test:///default")
    connection.close()
    with pytest.raises(pyvirhost.ConnectionClosedError, match="the connection is closed") as caught:
        getattr(connection, name)(*CALLS[name])
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == constants.VIR_ERR_INVALID_CONN
    with pytest.raises(pyvirhost.ConnectionClosedError), connection:
        pass


def test_handles_of_one_connection_close_on_their_own(remote):
    first = remote.ref()
    second = first.ref()
    first.close()
    assert second.node_info() == remote.node_info()
    second.close()
    assert remote.is_alive()


def test_handles_share_what_the_server_taught(proxy):
    with pyvirhost.open(proxy.test_uri) as connection:
        connection.cpu_stats()
        with connection.ref() as second:
            proxy.clear()
            second.cpu_stats()
            assert len(proxy.calls) == 1


def test_close_never_frees_under_a_running_call(proxy):
    connection = pyvirhost.open(proxy.test_uri)
    connection.cpu_stats()
    proxy.clear()
    results = []
    thread = threading.Thread(target=lambda: results.append(connection.cpu_stats()))
    with stopped(proxy.daemon):
        thread.start()
        # A second one that came while this is about to wait might not be sent by libvirt 9.0: its
        # client then forgets to wake the first, which sends for all.
        wait_until(lambda: proxy.calls, "the call to be under way")
        # One that begins and ends meanwhile is not the last one out.
        connection.uri()
        connection.close()
        with pytest.raises(pyvirhost.ConnectionClosedError):
            connection.cpu_stats()
        assert not results
        assert CLOSE not in proxy.calls
    thread.join(20)
    assert [result.user for result in results] == [9797400000]
    assert proxy.calls.count(CLOSE) == 1


def test_threads_close_while_others_call():
    start = threading.Barrier(8)
    for _ in range(50):
        connection = pyvirhost.open("test:///default")
        outcomes = []

        def call(connection=connection, outcomes=outcomes):
            start.wait()
            try:
                while True:
                    outcomes.append(connection.node_info().cpus)
            except pyvirhost.ConnectionClosedError:
                outcomes.append("closed")

        def close(connection=connection):
            start.wait()
            connection.close()

        threads = [threading.Thread(target=call) for _ in range(7)]
        threads.append(threading.Thread(target=close))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert outcomes.count("closed") == 7
        assert set(outcomes) <= {16, "closed"}


@pytest.mark.parametrize("name", sorted({*CALLS} - WITHOUT_ROUND_TRIP - PAIRED - DANGEROUS))
def test_a_call_that_blocks_lets_other_threads_run(proxy, name):
    done = threading.Event()

    def call():
        with contextlib.suppress(pyvirhost.LibvirtError):
            getattr(connection, name)(*CALLS[name])
        done.set()

    thread = threading.Thread(target=call)
    with pyvirhost.open(proxy.qemu_uri) as connection:
        with stopped(proxy.daemon):
            proxy.clear()
            thread.start()
            # With the GIL held in the call, neither this thread nor the proxy's would go on, and
            # the bound on every test would end the suite.
            wait_until(lambda: proxy.calls, "the call to be sent")
            assert not done.is_set()
        thread.join(20)
        assert done.is_set()


def test_open_and_close_let_other_threads_run(proxy):
    opened = []

    def open_and_close():
        with pyvirhost.open(proxy.test_uri) as connection:
            opened.append(connection.uri())
            may_close.wait(60)

    may_close = threading.Event()
    thread = threading.Thread(target=open_and_close)
    with stopped(proxy.daemon):
        thread.start()
        wait_until(lambda: proxy.calls, "open to be under way")
        assert not opened
    wait_until(lambda: opened, "open to come back")
    with stopped(proxy.daemon):
        proxy.clear()
        may_close.set()
        wait_until(lambda: proxy.calls, "close to be under way")
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()


def test_a_forked_child_leaves_its_parents_connection_alone(daemon):
    with pyvirhost.open(daemon.test_uri) as connection:
        child = multiprocessing.get_context("fork").Process(
            target=use_in_child, args=(connection, daemon.test_uri))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        assert connection.node_info().cpus == 16


def use_in_child(connection, uri):
    for name in CALLS:
        with pytest.raises(pyvirhost.ConnectionClosedError,
                           match=rf"belongs to process {os.getppid()},"):
            getattr(connection, name)(*CALLS[name])
    connection.close()
    del connection
    gc.collect()
    with pyvirhost.open(uri) as own:
        assert own.node_info().cpus == 16


def drop(connections):
    connections.clear()
    gc.collect()


def test_a_dropped_connection_warns_and_is_closed(proxy):
    connections = [pyvirhost.open(proxy.test_uri)]
    reference = weakref.ref(connections[0])
    with pytest.warns(ResourceWarning, match=r"unclosed <Connection 'test\+unix:"):
        drop(connections)
    assert reference() is None
    wait_until(lambda: CLOSE in proxy.calls, "the connection to be closed")


def test_dropping_a_connection_to_a_server_that_hangs_does_not_hang(proxy):
    connections = [pyvirhost.open(proxy.test_uri)]
    with stopped(proxy.daemon):
        proxy.clear()
        with pytest.warns(ResourceWarning):
            drop(connections)
        wait_until(lambda: proxy.calls, "the connection to be closed in the background")


def test_a_connection_does_not_pickle(connection):
    with pytest.raises(TypeError, match="pickle its uri"):
        pickle.dumps(connection)


@pytest.mark.parametrize("make", [
    pyvirhost.Connection, lambda: pyvirhost.Connection("test:///default"),
])
def test_only_open_makes_connections(make):
    with pytest.raises(TypeError):
        make()


def test_an_empty_connection_is_a_closed_one():
    empty = pyvirhost.Connection.__new__(pyvirhost.Connection)
    assert empty.closed
    with pytest.raises(pyvirhost.ConnectionClosedError):
        empty.node_info()
    with pytest.raises(pyvirhost.ConnectionClosedError):
        empty.ref()
    empty.close()


def test_round_trips(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        assert len(proxy.calls) == 4 + pyvirhost.EventLoop().running
        trips = {}
        for turn in ("first", "second"):
            for name in sorted({*CALLS} - DANGEROUS - {"ref"}):
                proxy.clear()
                with contextlib.suppress(pyvirhost.LibvirtError):
                    getattr(connection, name)(*CALLS[name])
                trips[name, turn] = len(proxy.calls)
        proxy.clear()
    assert len(proxy.calls) == 1
    cpus, cells = os.cpu_count(), len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    assert {name: (trips[name, "first"], trips[name, "second"]) for name, _ in trips} == {
        "alloc_pages": (1, 1), "baseline_cpu": (1, 1), "baseline_hypervisor_cpu": (1, 1),
        "capabilities": (1, 1), "cells_free_memory": (1, 1), "compare_cpu": (1, 1),
        "compare_hypervisor_cpu": (1, 1), "cpu_map": (1, 1), "cpu_model_names": (1, 1),
        "cpu_stats": (2, 1), "free_memory": (1, 1), "free_pages": (2, 1), "hostname": (1, 1),
        "is_alive": (0, 0), "is_encrypted": (1, 1), "is_secure": (1, 1), "lib_version": (1, 1),
        "max_vcpus": (1, 1), "memory_parameters": (2, 2), "memory_stats": (2, 1),
        "node_info": (1, 1), "per_cell_memory_stats": (1 + cells, cells),
        "per_cpu_stats": (1 + cpus, 1 + cpus),
        "ping": (1, 1), "security_model": (1, 1), "set_memory_parameters": (2, 2),
        "sev_info": (2, 2), "set_identity": (1, 1), "set_keepalive": (0, 0),
        "register_close_callback": (1, 1), "unregister_close_callback": (1, 1),
        "snapshot": (5 + cells, 5 + cells), "sysinfo": (1, 1), "type": (1, 0),
        "uri": (0, 0), "version": (1, 1),
    }

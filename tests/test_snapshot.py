"""Many readings in one go: the same values, in as few round trips, and no field spoils another."""

import os
import pickle
import signal
import threading
import time
from typing import get_args

import pytest
from daemon import ONE_WORKER, Daemon, stuck_worker, wait_until
from hostile import longs, numbers, stats

import pyvirhost
from pyvirhost import ALL_FIELDS, PRIORITY_FIELDS, constants

# libvirt's numbers of the procedures.
GET_INFO, GET_CAPABILITIES, GET_CELLS_FREE_MEMORY, GET_FREE_MEMORY = 6, 7, 101, 102
GET_CPU_STATS, GET_MEMORY_STATS, GET_CPU_MAP, GET_FREE_PAGES = 227, 228, 293, 340
FOUR = ("cpu_stats", "memory_stats", "free_memory", "node_info")
# What the test driver has.
HAS = ("node_info", "cpu_stats", "cpu_map", "per_cpu_stats", "free_memory", "cells_free_memory",
       "free_pages")


def alone(connection, name):
    if name == "free_pages":
        return connection.free_pages()
    return getattr(connection, name)()


@pytest.mark.parametrize("name", ALL_FIELDS)
def test_a_field_is_what_its_method_returns(connection, name):
    snapshot = connection.snapshot([name])
    assert snapshot.fields == (name,)
    if name in HAS:
        assert getattr(snapshot, name) == alone(connection, name)
        assert not snapshot.errors
    else:
        assert getattr(snapshot, name) is None
        assert isinstance(snapshot.errors[name], pyvirhost.NotSupportedError)
    assert all(getattr(snapshot, other) is None for other in ALL_FIELDS if other != name)


def test_a_real_host_has_every_field(qemu):
    snapshot = qemu.snapshot(ALL_FIELDS)
    assert snapshot.fields == ALL_FIELDS
    assert not snapshot.errors
    assert snapshot.node_info == qemu.node_info()
    assert snapshot.cpu_map == qemu.cpu_map()
    assert snapshot.per_cpu_stats.index == tuple(qemu.cpu_map())
    assert snapshot.cpu_stats.fields == snapshot.per_cpu_stats.fields
    now = qemu.cpu_stats()
    assert 0 <= now.idle - snapshot.cpu_stats.idle < 60 * 10**9 * snapshot.node_info.cpus
    assert snapshot.memory_stats.total == qemu.memory_stats().total
    assert snapshot.per_cell_memory_stats.index == tuple(range(snapshot.node_info.nodes))
    assert snapshot.free_memory == pytest.approx(qemu.free_memory(), rel=0.2)
    assert len(snapshot.cells_free_memory) == snapshot.node_info.nodes
    assert 4 in snapshot.free_pages.page_sizes
    assert snapshot.memory_parameters.keys() == qemu.memory_parameters().keys()


def test_given_page_sizes_ask_for_free_pages(connection):
    assert connection.snapshot().fields == PRIORITY_FIELDS
    assert connection.snapshot(page_sizes=[4]).fields == tuple(
        name for name in ALL_FIELDS if name in {*PRIORITY_FIELDS, "free_pages"})


def test_it_knows_its_host_and_its_time(remote):
    wall, monotonic = time.time(), time.monotonic_ns()
    snapshot = remote.snapshot()
    assert snapshot.uri == remote.uri()
    assert wall <= snapshot.started_at <= time.time()
    assert monotonic <= snapshot.monotonic_ns
    assert snapshot.duration_ns > 0
    assert snapshot.monotonic_ns + snapshot.duration_ns <= time.monotonic_ns()


def test_a_late_answer_does_not_pass_for_a_fresh_one(own_daemon):
    with pyvirhost.open(own_daemon.test_uri) as connection:
        taken = []
        thread = threading.Thread(target=lambda: taken.append(connection.snapshot(["node_info"])))
        own_daemon.process.send_signal(signal.SIGSTOP)
        thread.start()
        stopped = time.monotonic_ns()
        wait_until(lambda: time.monotonic_ns() - stopped > 300_000_000, "a while")
        going_on = time.monotonic_ns()
        own_daemon.process.send_signal(signal.SIGCONT)
        thread.join(20)
    snapshot, = taken
    assert snapshot.monotonic_ns < going_on <= snapshot.monotonic_ns + snapshot.duration_ns


# ---- round trips --------------------------------------------------------------------------------

def test_four_readings_are_four_round_trips(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        connection.snapshot(FOUR)
        proxy.clear()
        snapshot = connection.snapshot(FOUR)
        assert proxy.calls == [GET_INFO, GET_CPU_STATS, GET_MEMORY_STATS, GET_FREE_MEMORY]
        assert not snapshot.errors


@pytest.mark.parametrize(("fields", "trips"), [
    (("cpu_map",), 1), (("per_cpu_stats",), 1 + os.cpu_count()),
    (("cpu_map", "per_cpu_stats"), 1 + os.cpu_count()),
    (("cells_free_memory",), 1), (("per_cell_memory_stats",), 1), (("free_pages",), 1),
    (("memory_parameters",), 2), (PRIORITY_FIELDS, 6), (ALL_FIELDS, 10 + os.cpu_count()),
])
def test_each_field_costs_its_round_trips_and_no_more(proxy, fields, trips):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        nodes = connection.snapshot(fields) and connection.node_info().nodes
        proxy.clear()
        assert not connection.snapshot(fields).errors
        more = nodes - 1 if "per_cell_memory_stats" in fields else 0  # type: ignore[operator]
        assert len(proxy.calls) == trips + more


def test_page_sizes_are_learned_once(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.clear()
        first = connection.snapshot(["free_pages"])
        assert proxy.calls.count(GET_CAPABILITIES) == 1
        with connection.ref() as second:
            assert second.snapshot(["free_pages"]).free_pages.page_sizes == (
                first.free_pages.page_sizes)
        assert proxy.calls.count(GET_CAPABILITIES) == 1


def test_free_pages_by_themselves_are_of_the_sizes_that_the_host_has(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        counts = connection.free_pages()
        assert counts.page_sizes == connection.snapshot(["free_pages"]).free_pages.page_sizes
        assert connection.free_pages(None, 0, 1).page_sizes == counts.page_sizes
        assert proxy.calls.count(GET_CAPABILITIES) == 1
        proxy.clear()
        assert connection.free_pages() is not None
        assert proxy.calls == [GET_FREE_PAGES]
        with pytest.raises(pyvirhost.InvalidArgumentError):
            connection.free_pages(start_cell=999)


def test_the_fields_that_type_checkers_know_are_all_that_there_are():
    assert get_args(pyvirhost.SnapshotField) == ALL_FIELDS
    assert set(PRIORITY_FIELDS) < set(ALL_FIELDS)


def test_given_page_sizes_need_no_learning(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.clear()
        assert connection.snapshot(["free_pages"], page_sizes=[4]).free_pages.page_sizes == (4,)
        assert GET_CAPABILITIES not in proxy.calls


# ---- what was learned and is no longer so -------------------------------------------------------

def three_cells_more(proxy, connection):
    """Let the connection believe that there are more cells than there are, and return those."""
    cells = connection.node_info().nodes
    proxy.change_reply = lambda procedure, body: (
        numbers(cells + 3) + longs(*range(cells + 3)) if procedure == GET_CELLS_FREE_MEMORY
        else body)
    assert len(connection.snapshot(["cells_free_memory"]).cells_free_memory) == cells + 3
    proxy.change_reply = None
    return range(cells)


def test_a_stale_number_of_cells_is_learned_anew(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        cells = three_cells_more(proxy, connection)
        snapshot = connection.snapshot(["per_cell_memory_stats"])
        assert not snapshot.errors
        assert snapshot.per_cell_memory_stats.index == tuple(cells)
        cells = three_cells_more(proxy, connection)
        assert connection.per_cell_memory_stats().index == tuple(cells)
        cells = three_cells_more(proxy, connection)
        snapshot = connection.snapshot(["free_pages"])
        assert not snapshot.errors
        assert snapshot.free_pages.cells == cells


def test_cells_that_stay_wrong_are_an_error(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: (
            numbers(9) + longs(*range(9)) if procedure == GET_CELLS_FREE_MEMORY else body)
        proxy.clear()
        errors = connection.snapshot(["per_cell_memory_stats", "node_info"]).errors
        assert errors.keys() == {"per_cell_memory_stats"}
        assert isinstance(errors["per_cell_memory_stats"], pyvirhost.InvalidArgumentError)
        assert proxy.calls.count(GET_CELLS_FREE_MEMORY) == 1


def test_page_counts_that_nobody_asked_for_overwrite_nothing(proxy):
    # libvirt writes all of them into memory that was for the counts of this host's few cells.
    many = numbers(1024) + longs(*range(1024))
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: many if procedure == GET_FREE_PAGES else body
        for _ in range(20):
            counts = connection.snapshot(page_sizes=[4]).free_pages
            assert list(memoryview(counts).cast("B").cast("Q")) == list(range(len(counts.cells)))


def test_stale_page_sizes_are_learned_anew(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: (
            body.replace(b"size='4'", b"size='5'") if procedure == GET_CAPABILITIES else body)
        assert "free_pages" in connection.snapshot(["free_pages"]).errors
        proxy.change_reply = None
        snapshot = connection.snapshot(["free_pages", "node_info"])
        assert 4 in snapshot.free_pages.page_sizes
        assert snapshot.node_info == connection.node_info()
        assert not snapshot.errors


def test_stale_page_sizes_are_no_matter_to_free_pages_alone(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: (
            body.replace(b"size='4'", b"size='5'") if procedure == GET_CAPABILITIES else body)
        with pytest.raises(pyvirhost.LibvirtError):
            connection.free_pages()
        proxy.change_reply = None
        assert 4 in connection.free_pages().page_sizes


@pytest.mark.parametrize("pages", [
    b"<sages ", b"<pages size='" + b"9" * 5000 + b"'/><sages "], ids=["none", "no such size"])
def test_a_host_that_names_no_page_sizes(proxy, pages):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        def change(procedure, body):
            if procedure != GET_CAPABILITIES:
                return body
            text = body[4:].rstrip(b"\0").replace(b"<pages ", pages).replace(
                b"</pages>", b"</sages>")
            return numbers(len(text)) + text + bytes(-len(text) % 4)

        proxy.change_reply = change
        snapshot = connection.snapshot(["free_pages", "node_info"])
        assert isinstance(snapshot.errors["free_pages"], pyvirhost.NotSupportedError)
        with pytest.raises(pyvirhost.NotSupportedError, match="does not say which page sizes"):
            connection.free_pages()
        assert snapshot.node_info == connection.node_info()
        assert connection.snapshot(page_sizes=[4]).free_pages.page_sizes == (4,)


@pytest.mark.parametrize("text", [
    b"", b"<capabilities>", b"<a>" * 100_000 + b"</a>" * 100_000, b"<!DOCTYPE a><a/>", b"\xff\xfe",
    b"<!DOCTYPE a [<!ENTITY b '" + b"b" * 99_999 + b"'>]><a>" + b"&b;" * 99_999 + b"</a>",
], ids=["empty", "cut off", "deep", "document type", "noise", "entities"])
def test_capabilities_that_are_no_sound_xml_are_an_error_of_their_field(proxy, text):
    body = numbers(len(text)) + text + bytes(-len(text) % 4)
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, real_body: (
            body if procedure == GET_CAPABILITIES else real_body)
        snapshot = connection.snapshot(["free_pages", "node_info"])
        assert snapshot.node_info == connection.node_info()
        error = snapshot.errors["free_pages"]
        assert type(error) is pyvirhost.LibvirtError
        assert "the server's answer makes no sense: XML" in str(error)
        assert error.function == "virConnectGetCapabilities"


def test_another_number_of_fields_is_noticed(proxy):
    fewer = stats((b"user", 1), (b"idle", 2))
    with pyvirhost.open(proxy.qemu_uri) as connection:
        first = connection.snapshot(["cpu_stats"])
        proxy.change_reply = lambda procedure, body: (
            fewer if procedure == GET_CPU_STATS and body[:4] != numbers(0) else body)
        snapshot = connection.snapshot(["cpu_stats"], out=first)
        assert snapshot.cpu_stats == {"user": 1, "idle": 2}


# ---- hosts in trouble ---------------------------------------------------------------------------

def test_a_host_whose_ordinary_workers_are_all_stuck_still_answers():
    with (Daemon(settings=ONE_WORKER) as daemon, pyvirhost.open(daemon.qemu_uri) as connection,
          stuck_worker(daemon)):
        # An ordinary worker would let this wait until the bound on every test.
        assert not connection.snapshot().errors


def test_a_connection_lost_in_between_keeps_what_was_read(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        connection.snapshot(ALL_FIELDS)
        proxy.cut_at = GET_CPU_MAP
        snapshot = connection.snapshot(ALL_FIELDS)
        assert snapshot.node_info.cpus > 0
        assert snapshot.cpu_stats.idle > 0
        lost = set(ALL_FIELDS) - {"node_info", "cpu_stats"}
        assert snapshot.errors.keys() == lost
        for name in lost:
            assert isinstance(snapshot.errors[name], pyvirhost.ConnectionLostError)
            assert getattr(snapshot, name) is None
        assert "qemu+unix" in str(snapshot.errors["memory_stats"])


def test_an_error_says_which_function_failed(connection):
    errors = connection.snapshot(ALL_FIELDS).errors
    assert {name: error.function for name, error in errors.items()} == {
        "memory_stats": "virNodeGetMemoryStats", "per_cell_memory_stats": "virNodeGetMemoryStats",
        "memory_parameters": "virNodeGetMemoryParameters"}
    assert all(error.code == constants.VIR_ERR_NO_SUPPORT for error in errors.values())


def test_a_host_without_free_memory_has_0(proxy):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: (
            longs(0) if procedure == GET_FREE_MEMORY else body)
        snapshot = connection.snapshot(["free_memory"])
        assert snapshot.free_memory == 0
        assert not snapshot.errors


@pytest.mark.parametrize("reply", [
    numbers(0, 1, 16), numbers(1) + b"\1\0\0\0" + numbers(1, 16384)])
def test_nonsense_of_a_server_is_an_error_of_its_field(proxy, reply):
    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = lambda procedure, body: (
            reply if procedure == GET_CPU_MAP else body)
        snapshot = connection.snapshot(["cpu_map", "per_cpu_stats", "node_info"])
        assert snapshot.node_info.cpus > 0
        assert {name: str(error) for name, error in snapshot.errors.items()} == dict.fromkeys(
            ("cpu_map", "per_cpu_stats"),
            "the server's answer makes no sense: a CPU map that is too short for its CPUs")


# ---- reuse --------------------------------------------------------------------------------------

def test_out_is_overwritten_with_its_arrays(qemu):
    first = qemu.snapshot(ALL_FIELDS)
    arrays = [first.cpu_stats, first.per_cpu_stats, first.memory_stats,
              first.per_cell_memory_stats, first.node_info]
    view = memoryview(first.cpu_stats)
    before, began = view.tolist(), first.monotonic_ns
    wait_until(lambda: qemu.cpu_stats().to_dict() != dict(
        zip(first.cpu_stats.fields, before, strict=True)), "the clock to tick")
    second = qemu.snapshot(ALL_FIELDS, out=first)
    assert second is first
    assert first.monotonic_ns > began
    assert view.tolist() != before
    assert all(one is other for one, other in zip(
        [first.cpu_stats, first.per_cpu_stats, first.memory_stats, first.per_cell_memory_stats,
         first.node_info], arrays, strict=True))


def test_out_follows_a_host_that_changes(proxy):
    fields = ("cpu_map", "per_cpu_stats", "free_memory")
    with pyvirhost.open(proxy.qemu_uri) as connection:
        snapshot = connection.snapshot(fields)
        proxy.change_reply = lambda procedure, body: (
            numbers(1) + b"\1\0\0\0" + numbers(1, 8) if procedure == GET_CPU_MAP else body)
        connection.snapshot(fields, out=snapshot)
        assert snapshot.per_cpu_stats.index == (0,)
        assert snapshot.cpu_map.present == 8
        proxy.change_reply = None
        connection.snapshot(fields, out=snapshot)
        assert snapshot.per_cpu_stats.index == tuple(snapshot.cpu_map) == tuple(
            connection.cpu_map())
        proxy.cut_at = GET_FREE_MEMORY
        connection.snapshot(fields, out=snapshot)
        assert snapshot.free_memory is None
        assert snapshot.errors.keys() == {"free_memory"}


def test_out_of_another_connection_or_shape_is_refused(connection):
    snapshot = connection.snapshot(FOUR)
    kept = pickle.dumps(snapshot)
    with pyvirhost.open("test:///default") as other:
        with pytest.raises(ValueError, match="of another connection"):
            other.snapshot(FOUR, out=snapshot)
        with connection.ref() as second:
            assert second.snapshot(FOUR, out=second.snapshot(FOUR))
    with pytest.raises(ValueError, match="has the fields node_info, cpu_stats"):
        connection.snapshot(ALL_FIELDS, out=snapshot)
    with pytest.raises(ValueError, match="of another connection"):
        connection.snapshot(FOUR, out=pickle.loads(kept))
    with pytest.raises(TypeError):
        connection.snapshot(FOUR, out=connection.cpu_stats())
    pages = connection.snapshot(FOUR, page_sizes=[4])
    with pytest.raises(ValueError, match="has the page sizes"):
        connection.snapshot(FOUR, page_sizes=[4, 2048], out=pages)
    assert pickle.dumps(snapshot) == kept


@pytest.mark.parametrize(("fields", "error"), [
    (["cpu_stat"], ValueError), ([], ValueError), ("cpu_stats", TypeError), (5, TypeError),
    ([5], ValueError), ([None], ValueError), ([["cpu_stats"]], ValueError), (b"x", TypeError),
])
def test_bad_fields(connection, fields, error):
    with pytest.raises(error, match="fields"):
        connection.snapshot(fields)


@pytest.mark.parametrize(("sizes", "error"), [
    ([], ValueError), ([0], ValueError), ([-1], OverflowError), ([2**32], OverflowError),
    (["4"], TypeError), (4, TypeError), ("4", TypeError), ([4] * 65, ValueError),
])
def test_bad_page_sizes(connection, sizes, error):
    with pytest.raises(error, match="page_sizes"):
        connection.snapshot(page_sizes=sizes)


def test_threads_learn_from_one_connection_side_by_side():
    start = threading.Barrier(4)
    for _ in range(20):
        results = []
        with pyvirhost.open("test:///default") as connection:
            def work(connection=connection, results=results):
                start.wait()
                own = connection.snapshot(ALL_FIELDS)
                for _ in range(10):
                    connection.snapshot(ALL_FIELDS, out=own)
                results.append(own)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            for own in results:
                assert {name: getattr(own, name) for name in HAS} == {
                    name: alone(connection, name) for name in HAS}
                assert len(own.errors) == 3
        assert len(results) == 4


def test_threads_may_share_an_out():
    with pyvirhost.open("test:///default") as connection:
        shared = connection.snapshot(ALL_FIELDS)
        start = threading.Barrier(4)
        results = []

        def work():
            start.wait()
            for _ in range(300):
                connection.snapshot(ALL_FIELDS, out=shared)
                results.append((shared.cpu_stats.user, len(shared.errors), shared.node_info.cpus,
                                shared.free_pages.page_sizes))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert set(results) == {(9797400000, 3, 16, shared.free_pages.page_sizes)}
    assert len(results) == 1200


# ---- as a result --------------------------------------------------------------------------------

def test_it_pickles_compares_and_outlives_its_connection():
    with pyvirhost.open("test:///default") as connection:
        snapshot = connection.snapshot(ALL_FIELDS)
        other = connection.snapshot(ALL_FIELDS)
    copy = pickle.loads(pickle.dumps(snapshot))
    assert copy == snapshot
    assert copy != other
    assert copy.errors.keys() == snapshot.errors.keys()
    assert copy != 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(copy)
    with pytest.raises(TypeError, match=r"Connection.snapshot\(\) returns it"):
        pyvirhost.HostSnapshot()


@pytest.mark.parametrize("name", ALL_FIELDS)
def test_a_pickle_holds_what_was_read_and_nothing_else(connection, name):
    for out in (None, connection.snapshot([name])):
        snapshot = connection.snapshot([name], out=out)
        restore, (uri, wanted, read, *times, free, values, errors) = snapshot.__reduce__()
        assert uri == "test:///default"
        assert wanted == 1 << ALL_FIELDS.index(name)
        assert read == (0 if errors else wanted)
        assert len(times) == 3
        assert free == (3145728 if name == "free_memory" else None)
        kept = [value for value in (free, *values) if value is not None]
        assert kept == ([] if errors else [getattr(snapshot, name)])
        assert restore(uri, wanted, read, *times, free, values, errors) == snapshot


def test_pickles_with_nonsense_are_refused(connection):
    snapshot = connection.snapshot(ALL_FIELDS)
    restore, state = snapshot.__reduce__()
    assert restore(*state) == snapshot
    _, wanted, read, *_, values, errors = state
    error = errors["memory_stats"]
    for position, nonsense in (
            (0, b"uri"), (1, 0), (1, 2**10), (1, -1), (1, 2**32), (1, 1.0), (2, read | 2**10),
            (2, read | 2**31), (2, None), (3, "x"), (4, 2**63), (4, 0.5), (5, None),
            (6, None), (6, -1), (6, 2**64), (6, 1.5), (7, values[1:]), (7, list(values)),
            (7, values[1:] + values[:1]), (7, (snapshot,) * 9), (8, {"memory_stats": None}),
            (8, {"nothing": error}), (8, {5: error}), (8, {"memory_stats": ValueError("x")}),
            (8, [error]), (8, None)):
        changed = (*state[:position], nonsense, *state[position + 1:])
        with pytest.raises((TypeError, ValueError, OverflowError)):
            restore(*changed)
    with pytest.raises(ValueError, match="of which"):
        restore(state[0], wanted & ~1, *state[2:])


def test_errors_can_not_be_changed_from_outside(connection):
    snapshot = connection.snapshot(["memory_stats"])
    snapshot.errors.clear()
    assert snapshot.errors.keys() == {"memory_stats"}


def test_it_can_be_read_by_people_and_programs(connection):
    snapshot = connection.snapshot(["free_memory", "memory_stats", "node_info"])
    assert repr(snapshot).startswith("<HostSnapshot of test:///default at ")
    assert "free_memory: 3145728" in repr(snapshot)
    contents = snapshot.to_dict()
    assert contents.pop("started_at") == snapshot.started_at
    assert contents.pop("monotonic_ns") == snapshot.monotonic_ns
    assert contents.pop("duration_ns") == snapshot.duration_ns
    message = snapshot.errors["memory_stats"].message
    assert contents == {
        "uri": "test:///default", "node_info": connection.node_info().to_dict(),
        "memory_stats": None, "free_memory": 3145728,
        "errors": {"memory_stats": {"type": "NotSupportedError", "message": message}},
    }

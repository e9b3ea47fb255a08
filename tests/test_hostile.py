"""Servers that break the protocol or abuse it: clear errors, in time, and nothing left behind."""

import contextlib
import os
import pickle
import threading
import time

import pytest
from daemon import PASSWORD, USER, Daemon, wait_until
from hostile import (
    BROKEN,
    CONNECTED,
    EVENT,
    FALL_SILENT,
    GO_ON,
    HANG_UP,
    SENSELESS,
    UNCERTAIN,
    UNFINISHED,
    Answers,
    Hostile,
    lies,
    longs,
    node_info,
    numbers,
    stats,
    text,
    typed_parameters,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_connection import CALLS, DANGEROUS, PAIRED, WITHOUT_ROUND_TRIP
from test_leaks import growth

import pyvirhost

FRED = pyvirhost.PasswordAuth(USER, PASSWORD)
READINGS = ["node_info", "cpu_stats", "cells_free_memory", "free_pages", "cpu_map", "capabilities",
            "memory_parameters"]
ASKING = sorted({*CALLS} - PAIRED - DANGEROUS - WITHOUT_ROUND_TRIP)


@pytest.fixture(scope="module")
def scram():
    with Daemon(sasl="scram-sha-256") as daemon:
        yield daemon


@pytest.fixture(params=["open to all", "with SASL"])
def hostile(request, daemon, scram):
    """A server that misbehaves in front of a daemon whose handshake is short or long."""
    with Hostile(scram if request.param == "with SASL" else daemon) as hostile:
        yield hostile


@pytest.fixture
def plain(daemon):
    with Hostile(daemon) as hostile:
        yield hostile


def steps(hostile, first=CONNECTED):
    """Each reply of the handshake, by its number; together they leave nothing behind."""
    hostile.clear()
    with pyvirhost.open(hostile.test_uri, auth=FRED):
        count = len(hostile.calls)
    assert count >= (4 if hostile.daemon.sasl is None else 6)
    hostile.hang_up()
    with nothing_left_behind():
        for step in range(first, count):
            yield step
            hostile.hang_up()


def resources():
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@contextlib.contextmanager
def nothing_left_behind():
    before = resources()
    yield
    # One may be what a library keeps from its first failure on; a leak would be one a step.
    wait_until(lambda: all(now <= then + 1 for now, then in zip(resources(), before, strict=True)),
               f"descriptors and threads to end: {resources()}, {before}")


def assert_lost_or_refused(hostile):
    # libvirt opens without the features that it could not ask for, and the first call finds the
    # connection dead.
    with (pytest.raises(pyvirhost.LibvirtError) as caught,
          pyvirhost.open(hostile.test_uri, auth=FRED, timeout=20) as connection):
        connection.node_info()
    assert not isinstance(caught.value, pyvirhost.OperationTimeoutError)
    assert str(caught.value)
    assert hostile.misbehaved.wait(20)


# ---- while it opens ----

@pytest.mark.parametrize("lie", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("then", [FALL_SILENT, HANG_UP], ids=["silent", "hangs up"])
def test_no_step_of_the_handshake_waits_after_nonsense(hostile, lie, then):
    for step in steps(hostile):
        hostile.misbehave(lie, then, step)
        assert_lost_or_refused(hostile)


@pytest.mark.parametrize("lie", (UNFINISHED | UNCERTAIN).values(), ids=UNFINISHED | UNCERTAIN)
def test_hanging_up_at_any_step_of_the_handshake_is_an_error_at_once(hostile, lie):
    for step in steps(hostile):
        hostile.misbehave(lie, HANG_UP, step)
        assert_lost_or_refused(hostile)


@pytest.mark.parametrize("name", UNFINISHED)
def test_silence_at_any_step_of_the_handshake_ends_with_the_timeout(hostile, name):
    lie = UNFINISHED[name]
    # An event that was not asked for may also make libvirt hang up at once.
    expected = pyvirhost.LibvirtError if name == "an event in its place" else (
        pyvirhost.OperationTimeoutError)
    for step in steps(hostile):
        hostile.misbehave(lie, FALL_SILENT, step)
        with pytest.raises(expected):
            pyvirhost.open(hostile.test_uri, auth=FRED, timeout=0.1)
        assert hostile.misbehaved.wait(20)


@pytest.mark.parametrize("lie", SENSELESS.values(), ids=SENSELESS)
def test_a_senseless_step_of_the_handshake_is_refused_or_done_without(hostile, lie):
    for step in steps(hostile, 0):
        hostile.misbehave(lie, GO_ON, step)
        with (contextlib.suppress(pyvirhost.LibvirtError),
              pyvirhost.open(hostile.test_uri, auth=FRED, timeout=20) as connection):
            assert connection.node_info().cpus == 16
        assert hostile.misbehaved.wait(20)


# ---- while it is asked ----

def ask(connection, name):
    return getattr(connection, name)(*CALLS[name])


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize(("lie", "then"), [
    *[pytest.param(lie, FALL_SILENT, id=name) for name, lie in BROKEN.items()],
    *[pytest.param(lie, HANG_UP, id=f"{name} at the end") for name, lie in UNFINISHED.items()],
])
def test_a_reading_that_breaks_the_protocol_loses_the_connection(plain, name, lie, then):
    with nothing_left_behind():
        connection = pyvirhost.open(plain.qemu_uri)
        plain.misbehave(lie, then)
        with contextlib.suppress(pyvirhost.LibvirtError):
            # Some ask twice, and do without the first answer.
            ask(connection, name)
        assert plain.misbehaved.wait(20)
        assert not connection.is_alive()
        for _ in range(2):
            with pytest.raises(pyvirhost.ConnectionLostError, match="is lost, open it again"):
                ask(connection, name)
        connection.close()


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("lie", [BROKEN["ones"], UNFINISHED["half a head"]], ids=["ones", "half"])
def test_the_reading_itself_says_that_the_connection_is_lost(plain, name, lie):
    with pyvirhost.open(plain.qemu_uri) as connection:
        plain.misbehave(lie, HANG_UP)
        with pytest.raises(pyvirhost.ConnectionLostError, match="is lost, open it again"):
            ask(connection, name)


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("lie", SENSELESS.values(), ids=SENSELESS)
def test_a_senseless_reading_is_an_error_of_that_reading_alone(plain, name, lie):
    with nothing_left_behind(), pyvirhost.open(plain.test_uri) as connection:
        plain.misbehave(lie, GO_ON)
        with contextlib.suppress(pyvirhost.LibvirtError):
            walk(ask(connection, name))
        assert plain.misbehaved.wait(20)
        assert connection.is_alive()
        assert connection.node_info().cpus == 16
        plain.hang_up()


def test_keepalive_ends_every_wait_for_a_silent_server(daemon):
    # All at once, since each waits for as long as keepalive takes.
    outcomes = {}

    def read(name, how, lie):
        with (Hostile(daemon) as hostile,
              pyvirhost.open(hostile.qemu_uri, keepalive=(1, 1)) as connection):
            hostile.misbehave(lie, FALL_SILENT)
            try:
                ask(connection, name)
            except pyvirhost.LibvirtError as error:
                outcomes[name, how] = type(error)

    with pyvirhost.EventLoop(), nothing_left_behind():
        threads = [threading.Thread(target=read, args=(name, how, UNFINISHED[how]))
                   for name in READINGS
                   for how in ("nothing", "half a head", "a body without its end")]
        # After 30 s the daemon would hang up by itself.
        deadline = time.monotonic() + 25
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive()
    assert len(outcomes) == len(threads)
    assert set(outcomes.values()) == {pyvirhost.ConnectionLostError}


# ---- what the protocol allows ----

def walk(result):
    """Read all that a result holds."""
    repr(result)
    if hasattr(result, "to_dict"):
        result.to_dict()
        assert pickle.loads(pickle.dumps(result)) == result
        with contextlib.suppress(TypeError), memoryview(result) as view:
            view.tobytes()


def test_no_cpu_map_is_shorter_than_its_cpus(plain):
    with pyvirhost.open(plain.test_uri) as connection:
        for bits, present in ((b"", 8), (b"\x15", 1000), (b"\x15", 10**6), (b"\xff" * 2048, 20000),
                              (b"\x15", 2**31 - 1), (b"\x15", 2**31 - 7)):
            plain.misbehave(lies(body=text(bits) + numbers(3, present), status=0), GO_ON)
            with pytest.raises(pyvirhost.LibvirtError, match=r"too short for|more than 16384"):
                connection.cpu_map()
        # More bits and more CPUs online than there are do no harm.
        plain.misbehave(lies(body=text(b"\xff" * 100) + numbers(999, 8)), GO_ON)
        assert list(connection.cpu_map()) == list(range(8))
        plain.misbehave(lies(body=text(b"\xff" * 2048) + numbers(16384, 16384)), GO_ON)
        assert len(list(connection.cpu_map())) == 16384


@pytest.mark.parametrize("present", [-1, 1000, 16384, 20000, 2**31 - 1])
def test_a_map_of_no_cpus_stays_one_when_it_is_read_again(daemon, present):
    get_cpu_map = 293
    with Answers(daemon) as answers, pyvirhost.open(answers.test_uri) as connection:
        answers.replies[get_cpu_map] = [text(b"") + numbers(0, 0), text(b"") + numbers(7, present)]
        snapshot = connection.snapshot(["cpu_map", "per_cpu_stats"])
        walk(snapshot.cpu_map)
        assert (list(snapshot.cpu_map), len(snapshot.cpu_map), snapshot.cpu_map.online) == (
            [], 0, 0)
        assert snapshot.errors.keys() == {"per_cpu_stats"}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 2**31 - 1, -1])
def test_no_more_cpu_models_are_read_than_there_are(plain, count):
    with pyvirhost.open(plain.test_uri) as connection:
        for names in ([], [b"a", b"\xff"]):
            body = numbers(len(names)) + b"".join(map(text, names)) + numbers(count)
            plain.misbehave(lies(body=body), GO_ON)
            if count == -1:
                with pytest.raises(pyvirhost.LibvirtError):
                    connection.cpu_model_names("x86_64")
            else:
                assert connection.cpu_model_names("x86_64") == ["a", "\ufffd"][:len(names)]


@pytest.mark.parametrize("name", ["version", "lib_version"])
@pytest.mark.parametrize("number", [2**31, 2**63, 2**64 - 1])
def test_any_number_is_a_version(plain, name, number):
    with pyvirhost.open(plain.test_uri) as connection:
        plain.misbehave(lies(body=longs(number)), GO_ON)
        version = getattr(connection, name)()
        assert int(version) == number
        walk(version)


def test_more_numa_cells_than_libvirt_carries_are_refused(plain):
    for nodes in (1025, 2**31 - 1, 2**31, 2**32 - 1):
        with pyvirhost.open(plain.test_uri) as connection:
            plain.change_reply = {101: b"", 6: node_info(nodes=nodes)}.get
            with pytest.raises(pyvirhost.LibvirtError):
                connection.per_cell_memory_stats()
            with pytest.raises(pyvirhost.LibvirtError):
                connection.free_pages([4])
            plain.change_reply = None


def test_a_comparison_that_is_not_known_is_an_int(plain):
    with pyvirhost.open(plain.test_uri) as connection:
        plain.misbehave(lies(body=numbers(77), status=0), GO_ON)
        assert connection.compare_cpu("<cpu/>") == 77


def test_cells_and_pages_that_nobody_asked_for(plain):
    many = numbers(1024) + longs(*range(1024))
    with pyvirhost.open(plain.test_uri) as connection:
        for ask in (lambda: connection.cells_free_memory(0, 1),
                    lambda: connection.free_pages([4], 0, 1)):
            plain.misbehave(lies(body=many, status=0), GO_ON)
            with contextlib.suppress(pyvirhost.LibvirtError):
                walk(ask())
            plain.misbehave(lies(body=numbers(1025) + longs(*range(1025)), status=0), GO_ON)
            with pytest.raises(pyvirhost.LibvirtError):
                ask()
            plain.misbehave(lies(body=numbers(0), status=0), GO_ON)
            walk(ask())
            plain.misbehave(lies(body=numbers(1) + longs(2**64 - 1), status=0), GO_ON)
            walk(ask())


@pytest.mark.parametrize(("name", "shown"), [
    (b"x" * 79, "x" * 79), (b"x" * 80, None), (b"x" * 200, None), (b"", ""),
    (b"\xff\x80", "\ufffd\ufffd"), (b"a\0b", "a"),
])
def test_field_names_of_any_bytes_and_length(plain, name, shown):
    with pyvirhost.open(plain.test_uri) as connection:
        connection.cpu_stats()
        fields = len(connection.cpu_stats())
        for _ in range(3):
            plain.misbehave(lies(body=stats(*[(name, 5)] * fields)), GO_ON)
            if shown is None:
                with pytest.raises(pyvirhost.LibvirtError):
                    connection.cpu_stats()
            else:
                times = connection.cpu_stats()
                walk(times)
                assert times.fields == (shown,) * fields


@pytest.mark.parametrize("count", [-1, -2**31, 17, 1000, 2**31 - 1])
def test_impossible_numbers_of_fields(plain, count):
    with pyvirhost.open(plain.test_uri) as connection:
        plain.misbehave(lies(body=stats(count=count)), GO_ON)
        with pytest.raises(pyvirhost.LibvirtError):
            connection.cpu_stats()
        assert connection.cpu_stats().user == 9797400000


@pytest.mark.parametrize("fields", [0, 1, 2, 5, 16, 17])
def test_other_fields_than_were_asked_for(plain, fields):
    with pyvirhost.open(plain.test_uri) as connection:
        usual = len(connection.cpu_stats())
        body = stats(*[(b"field%d" % i, i) for i in range(fields)])
        plain.misbehave(lies(body=body), GO_ON)
        if fields > usual:
            with pytest.raises(pyvirhost.LibvirtError):
                connection.cpu_stats()
        else:
            times = connection.cpu_stats()
            walk(times)
            assert times.to_dict() == {f"field{i}": i for i in range(fields)}


def test_no_row_of_a_table_repeats_another_for_want_of_fields(plain):
    with pyvirhost.open(plain.test_uri) as connection:
        usual = len(connection.cpu_stats())
        for step, fields in ((3, usual - 1), (2, 0)):
            plain.misbehave(lies(body=stats(*[(b"user", 1)] * fields)), GO_ON, step)
            with pytest.raises(pyvirhost.LibvirtError, match="fields"):
                connection.per_cpu_stats()


@pytest.mark.parametrize(("parameter", "value"), [
    ((b"a", 1, numbers(-1)), -1), ((b"a", 2, numbers(-1)), 2**32 - 1), ((b"a", 3, longs(-1)), -1),
    ((b"a", 4, longs(-1)), 2**64 - 1), ((b"a", 5, bytes(8)), 0.0), ((b"a", 6, numbers(1)), True),
    ((b"a", 7, text(b"\xff")), "\ufffd"),
    ((b"a", 0, b""), None), ((b"a", 8, numbers(1)), None), ((b"a", 2**31, b""), None),
    ((b"x" * 80, 1, numbers(1)), None), ((b"x" * 10**5, 1, numbers(1)), None),
])
def test_typed_parameters_of_any_type(plain, parameter, value):
    with pyvirhost.open(plain.qemu_uri) as connection:
        for copies in (1, 64):
            body = typed_parameters(*[parameter] * copies)
            plain.misbehave(lies(body=body, status=0), GO_ON, step=1)
            if value is None:
                with pytest.raises(pyvirhost.LibvirtError):
                    connection.memory_parameters()
            else:
                parameters = connection.memory_parameters()
                walk(parameters)
                assert parameters.to_dict() == {"a": value}
                assert type(parameters["a"]) is type(value)


@pytest.mark.parametrize("name", ["memory_parameters", "sev_info"])
def test_the_texts_of_typed_parameters_are_freed(plain, name):
    body = typed_parameters(*[(b"a", 7, text(b"x" * 1000))] * 64)
    with pyvirhost.open(plain.qemu_uri) as connection:
        def read():
            plain.misbehave(lies(body=body, status=0), GO_ON, step=1)
            assert getattr(connection, name)()["a"] == "x" * 1000

        # A leak would be 64 kB a call; what the proxy notes of each is less.
        memory, *_ = growth(read, 20)
        assert memory < 10_000


@pytest.mark.parametrize("copies", [65, 2**16])
def test_more_typed_parameters_than_libvirt_carries(plain, copies):
    with pyvirhost.open(plain.qemu_uri) as connection:
        for body in (typed_parameters(*[(b"a", 1, numbers(1))] * copies), numbers(copies)):
            plain.misbehave(lies(body=body, status=0), GO_ON, step=1)
            with pytest.raises(pyvirhost.LibvirtError):
                connection.memory_parameters()


def test_an_error_whose_numbers_only_a_newer_libvirt_knows(plain):
    body = numbers(9999, 8888, 1) + text(b"flux too low") + numbers(77, 0, 0, 0, 0, 5, 6, 0)
    with pyvirhost.open(plain.qemu_uri) as connection:
        plain.misbehave(lies(body=body, status=1), GO_ON)
        with pytest.raises(pyvirhost.LibvirtError, match="flux too low") as caught:
            connection.node_info()
    error = caught.value
    assert type(error) is pyvirhost.LibvirtError
    assert (error.code, error.domain, error.level) == (9999, 8888, 77)
    assert (error.int1, error.int2) == (5, 6)


def test_a_server_that_closes_for_an_unknown_reason(plain):
    # Procedure 362: the daemon's own connection to its driver is closed.
    reasons = []
    with pyvirhost.EventLoop(), pyvirhost.open(plain.qemu_uri) as connection:
        connection.register_close_callback(lambda _, reason: reasons.append(reason))
        event = lies(kind=EVENT, procedure=362, serial=0, body=numbers(99))

        plain.misbehave(
            lambda head, body: [*event(head, body), head, body], GO_ON)
        assert connection.node_info().cpus > 0
        wait_until(lambda: reasons, "the callback")
    assert reasons == [99]


WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 2048, 2**16, 2**25,
                     2**31 - 1, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1)).map(numbers)


@st.composite
def distortions(draw):
    """Return a function of a reply's body to another: cut, random, or with other words in it."""
    kind = draw(st.sampled_from(["words", "cut", "random"]))
    if kind == "random":
        whole = draw(st.one_of(st.binary(max_size=200),
                               st.lists(WORDS, max_size=40).map(b"".join)))
        return lambda body: whole
    if kind == "cut":
        share = draw(st.floats(0, 1))
        return lambda body: body[:int(len(body) * share)]
    changes = draw(st.lists(st.tuples(st.integers(0, 40), WORDS), min_size=1, max_size=4))

    def distort(body):
        body = bytearray(body)
        for place, word in changes:
            if len(body) >= 4:
                # From either end, where the counts are.
                at = 4 * (place // 2 % (len(body) // 4))
                at = at if place % 2 else len(body) - 4 - at
                body[at:at + 4] = word
        return bytes(body)

    return distort


@pytest.mark.parametrize("driver", ["test", "qemu"])
@pytest.mark.parametrize("name", ASKING)
def test_any_reply_is_a_result_or_an_error_of_libvirt(daemon, name, driver):
    with Hostile(daemon) as hostile, contextlib.ExitStack() as stack:
        uri = getattr(hostile, f"{driver}_uri")
        connection = stack.enter_context(pyvirhost.open(uri))

        @settings(max_examples=50, deadline=None,
                  suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(st.integers(0, 2), distortions(), st.sampled_from([0, None]))
        def reply(step, distort, status):
            hostile.misbehave(
                lambda head, body: lies(body=distort(body), **(
                    {} if status is None else {"status": status}))(head, body),
                GO_ON, step)
            with contextlib.suppress(pyvirhost.LibvirtError):
                walk(ask(connection, name))
            hostile.lie = None
            assert connection.is_alive()
            assert connection.node_info().cpus > 0

        reply()

"""What every result promises: a buffer, a value, a pickle, and no way to break it from Python."""

import array
import contextlib
import copy
import ctypes
import os
import pickle
import struct
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyvirhost


def results_of(connection):
    """One of each result type that this connection can give."""
    results = [
        connection.node_info(), connection.cpu_map(), connection.cpu_stats(),
        connection.per_cpu_stats(), connection.cells_free_memory(),
        connection.free_pages([4, 2048]), connection.lib_version(),
    ]
    for read in (connection.memory_stats, connection.per_cell_memory_stats,
                 connection.memory_parameters, connection.security_model):
        try:
            results.append(read())
        except pyvirhost.NotSupportedError:
            assert connection.type() == "TEST"
    return results


@pytest.fixture(scope="module")
def results(daemon):
    """Results of both drivers, whose connections are closed by now."""
    with pyvirhost.open("test:///default") as test, pyvirhost.open(daemon.qemu_uri) as qemu:
        return results_of(test) + results_of(qemu)


def buffers(results):
    return [result for result in results
            if type(result).__name__ in
            ("CPUStats", "MemoryStats", "StatsTable", "CPUMap", "CellsFreeMemory",
             "PageCounts")]


def test_there_is_one_of_each(results):
    names = {type(result).__name__ for result in results}
    assert names == {
        "NodeInfo", "CPUMap", "CPUStats", "MemoryStats", "StatsTable", "CellsFreeMemory",
        "PageCounts", "TypedParameters", "Version", "SecurityModel"}


def test_results_pickle_copy_and_compare(results):
    for result in results:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(result, protocol))
            assert type(again) is type(result)
            assert again == result
            assert repr(again) == repr(result)
        assert copy.deepcopy(result) == result
        assert result != object()
        assert (result == object()) is False


def test_different_results_differ(results):
    for one in results:
        for other in results:
            assert (one == other) == (repr(one) == repr(other))


def test_values_that_cannot_change_hash_and_mappings_do_not(results):
    for result in results:
        if isinstance(result, Mapping):
            with pytest.raises(TypeError, match="unhashable"):
                hash(result)
        else:
            assert hash(result) == hash(pickle.loads(pickle.dumps(result)))


def test_results_are_immutable_and_final(results):
    for result in results:
        name = next((name for name in dir(result) if not name.startswith("_")), "x")
        with pytest.raises((AttributeError, TypeError)):
            setattr(result, name, 1)
        with pytest.raises((AttributeError, TypeError)):
            result.new = 1
        with pytest.raises(TypeError):
            result[0] = 1
        if not isinstance(result, tuple):
            with pytest.raises(TypeError, match="not an acceptable base type"):
                type("Sub", (type(result),), {})


def test_results_are_made_by_the_package_only(results):
    for result in results:
        if not isinstance(result, tuple):
            with pytest.raises(TypeError, match=r"can't be created directly; Connection\."):
                type(result)()
            with pytest.raises(TypeError):
                type(result)(1)


def test_a_result_made_in_spite_of_that_is_empty_and_harmless(results):
    for kind in {type(result) for result in results} - {pyvirhost.Version,
                                                        pyvirhost.SecurityModel}:
        empty = kind.__new__(kind)  # type: ignore[call-overload]
        assert empty == pickle.loads(pickle.dumps(empty))
        assert isinstance(repr(empty), str)
        assert all(not value for value in empty.to_dict().values())
        if kind is not pyvirhost.NodeInfo and kind is not pyvirhost.TypedParameters:
            assert memoryview(empty).nbytes == 0
        for key in (0, "user", (0, 4), slice(None)):
            with contextlib.suppress(AttributeError, LookupError, TypeError):
                assert not kind.__getitem__(empty, key)


def test_no_method_takes_another_object_for_itself(results):
    kinds = {type(result) for result in results if not isinstance(result, tuple)}
    for kind in kinds | {pyvirhost.HostSnapshot}:
        for owner in kind.__mro__[:-1]:
            for name, method in vars(owner).items():
                if callable(method) and name != "__new__":
                    for other in (1, "text", object(), kind):
                        with pytest.raises(TypeError):
                            method(other)


def test_to_dict_speaks_of_every_value(results):
    for result in results:
        if isinstance(result, pyvirhost.StatsTable):
            assert result.to_dict() == {number: dict(row) for number, row in result.items()}
        elif isinstance(result, Mapping):
            assert result.to_dict() == dict(result) == {key: result[key] for key in result}  # type: ignore[attr-defined]
            assert result == result.to_dict()  # type: ignore[attr-defined]
        elif isinstance(result, pyvirhost.NodeInfo):
            assert all(getattr(result, name) == value for name, value in result.to_dict().items())


# ---- buffers ----

def expected_buffer(result):
    """The format, shape and flat values that a result's buffer must have."""
    if isinstance(result, (pyvirhost.CPUStats, pyvirhost.MemoryStats)):
        return "Q", (len(result),), list(result.values())
    if isinstance(result, pyvirhost.StatsTable):
        values = [value for row in result.values() for value in row.values()]
        return "Q", (len(result.index), len(result.fields)), values
    if isinstance(result, pyvirhost.CPUMap):
        return "B", ((result.present + 7) // 8,), list(bytes(result))
    if isinstance(result, pyvirhost.CellsFreeMemory):
        return "Q", (len(result),), list(result.values())
    values = [result[cell, size] for cell in result.cells for size in result.page_sizes]
    return "Q", (len(result.cells), len(result.page_sizes)), values


def test_buffers_have_the_right_shape_format_and_strides(results):
    for result in buffers(results):
        form, shape, values = expected_buffer(result)
        view = memoryview(result)
        itemsize = struct.calcsize(form)
        assert (view.format, view.shape, view.itemsize, view.readonly, view.c_contiguous) == (
            form, shape, itemsize, True, True)
        assert view.strides == (itemsize,) if len(shape) == 1 else (shape[1] * itemsize, itemsize)
        assert view.nbytes == len(values) * itemsize
        assert list(view.cast("B").cast(form)) == values
        assert view.obj is result


def test_numpy_arrays_are_zero_copy_and_read_only(results):
    for result in buffers(results):
        form, shape, values = expected_buffer(result)
        one, other = numpy.asarray(result), numpy.asarray(result)
        assert one.dtype == numpy.dtype(form)
        assert one.shape == shape
        assert one.ravel().tolist() == values
        assert not one.flags.writeable
        assert one.flags.c_contiguous
        assert one.ctypes.data == other.ctypes.data == address(result)
        with pytest.raises(ValueError, match="read-only"):
            one[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            one.flags.writeable = True


def test_a_buffer_keeps_its_memory_alive():
    with pyvirhost.open("test:///default") as connection:
        views = [memoryview(result) for result in buffers(results_of(connection))]
        before = [view.tobytes() for view in views]
        churn = [connection.cpu_stats() for _ in range(1000)]
    assert [view.tobytes() for view in views] == before
    assert churn[-1].user == 9797400000


class PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)), ("internal", ctypes.c_void_p)]


SIMPLE, WRITABLE, FORMAT, ND, STRIDES = 0, 1, 4, 8, 0x10 | 8
C_CONTIGUOUS, F_CONTIGUOUS, ANY_CONTIGUOUS = 0x20 | STRIDES, 0x40 | STRIDES, 0x80 | STRIDES


def raw_buffer(result, flags):
    """What PyObject_GetBuffer fills in for these flags."""
    view = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(
        ctypes.py_object(result), ctypes.byref(view), ctypes.c_int(flags))
    facts = (view.buf, view.len, view.itemsize, view.readonly, view.ndim, view.format,
             bool(view.shape), bool(view.strides), bool(view.suboffsets))
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return facts


def address(result):
    return raw_buffer(result, SIMPLE)[0]


@pytest.mark.parametrize("flags", [
    SIMPLE, FORMAT, ND, ND | FORMAT, STRIDES, STRIDES | FORMAT, C_CONTIGUOUS | FORMAT,
    ANY_CONTIGUOUS])
def test_buffers_give_what_the_flags_ask_for_and_no_more(results, flags):
    for result in buffers(results):
        form, shape, values = expected_buffer(result)
        size = struct.calcsize(form)
        assert raw_buffer(result, flags)[1:] == (
            size * len(values), size, 1, len(shape) if flags & ND else 1,
            form.encode() if flags & FORMAT else None, bool(flags & ND),
            flags & STRIDES == STRIDES, False)


def test_buffers_refuse_to_be_written(results):
    for result in buffers(results):
        for flags in (WRITABLE, WRITABLE | ND, WRITABLE | STRIDES | FORMAT):
            with pytest.raises(BufferError, match=f"{type(result).__name__} is read-only"):
                raw_buffer(result, flags)


def test_fortran_order_is_had_only_where_it_is_the_same(results):
    for result in buffers(results):
        _, shape, _ = expected_buffer(result)
        if len(shape) == 2 and min(shape) > 1:
            with pytest.raises(BufferError, match="C-contiguous"):
                raw_buffer(result, F_CONTIGUOUS)
        else:
            assert raw_buffer(result, F_CONTIGUOUS)[7]


def test_buffers_need_no_numpy(connection):
    assert array.array("Q", memoryview(connection.cpu_stats())).tolist() == list(
        connection.cpu_stats().values())
    assert bytes(memoryview(connection.cpu_map())) == b"\x15"


# ---- each type's own ways ----

def test_stats_are_a_mapping_with_attributes(connection):
    stats = connection.cpu_stats()
    assert isinstance(stats, Mapping)
    assert stats.fields == tuple(stats) == tuple(stats.keys())  # type: ignore[attr-defined]
    assert stats["user"] == stats.user == stats.get("user") == 9797400000  # type: ignore[attr-defined]
    assert "user" in stats
    assert "steal" not in stats
    assert None not in stats
    assert stats.get("steal", 7) == 7
    assert stats.intr is None  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="intr"):
        stats["intr"]
    with pytest.raises(KeyError, match="steal"):
        stats["steal"]
    with pytest.raises(AttributeError, match="'steal'; the server reports user, kernel"):
        stats.steal  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(TypeError, match="unhashable"):
        stats[[]]
    assert {**stats} == stats.to_dict()  # type: ignore[attr-defined]


CPU_FIELDS = ("kernel", "user", "idle", "iowait", "intr", "guest", "utilization")
MEMORY_FIELDS = ("total", "free", "buffers", "cached", "available")


def test_stats_have_the_fields_of_their_own_kind_only(qemu):
    for stats, own, other in ((qemu.cpu_stats(), CPU_FIELDS, MEMORY_FIELDS),
                              (qemu.memory_stats(), MEMORY_FIELDS, CPU_FIELDS),
                              (qemu.per_cpu_stats()[0], CPU_FIELDS, MEMORY_FIELDS),
                              (qemu.per_cell_memory_stats()[0], MEMORY_FIELDS, CPU_FIELDS)):
        assert {field: getattr(stats, field) for field in own} == {
            **dict.fromkeys(own), **stats.to_dict()}
        for field in other:
            with pytest.raises(AttributeError, match=f"Stats has no field or attribute '{field}'"):
                getattr(stats, field)


def test_the_rows_of_a_table_are_what_one_reading_is(qemu):
    for table, one in ((qemu.per_cpu_stats(), qemu.cpu_stats(0)),
                       (qemu.per_cell_memory_stats(), qemu.memory_stats(0))):
        row, = {type(row) for row in table.values()}
        assert row is type(one)
        assert {row.unit for row in table.values()} == {one.unit} == {table.unit}
        assert type(pickle.loads(pickle.dumps(table))[0]) is type(one)
    assert pyvirhost.StatsTable[row].__origin__ is pyvirhost.StatsTable  # type: ignore[attr-defined, valid-type]  # in an annotation


def test_stats_in_base_units(connection, qemu):
    assert connection.cpu_stats().in_seconds() == {
        "user": 9.7974, "kernel": 34678.7234, "idle": 87.2649, "iowait": 0.7636}
    memory = qemu.memory_stats()
    assert memory.in_bytes() == {field: size * 1024 for field, size in memory.items()}
    assert connection.node_info().memory_bytes == connection.node_info().memory * 1024


def test_a_utilization_is_no_time(connection):
    restore, _ = connection.cpu_stats().__reduce__()
    assert restore(("utilization",), (12,)).in_seconds() == {}


def test_equal_fields_of_another_kind_are_not_equal(qemu):
    (cpu, _), (memory, _) = qemu.cpu_stats().__reduce__(), qemu.memory_stats().__reduce__()
    same = ("x",), (1,)
    assert cpu(*same) == cpu(*same) == {"x": 1}
    assert cpu(*same) != memory(*same)


def test_a_field_that_no_property_names_is_an_attribute_all_the_same(connection):
    restore, (fields, values) = connection.cpu_stats().__reduce__()
    newer = restore((*fields, "steal"), (*values, 5))
    assert newer.steal == newer["steal"] == 5


def test_out_is_refilled_in_place(qemu):
    earlier = qemu.cpu_stats()
    view = memoryview(earlier)
    before = list(view)
    assert qemu.cpu_stats(out=earlier) is earlier
    after = list(view)
    assert after == list(earlier.values())
    assert all(now >= then for now, then in zip(after[:3], before[:3], strict=True))
    for table in (qemu.per_cpu_stats(), qemu.per_cell_memory_stats()):
        read = qemu.per_cpu_stats if table.unit == "ns" else qemu.per_cell_memory_stats
        start = address(table)
        assert read(out=table) is table
        assert address(table) == start
    memory = qemu.memory_stats()
    assert qemu.memory_stats(out=memory) is memory
    cell = qemu.memory_stats(0)
    assert qemu.memory_stats(0, out=cell) is cell


def test_out_of_another_kind_is_refused_and_unchanged(qemu, connection):
    times, memory, cell = qemu.cpu_stats(), qemu.memory_stats(), qemu.memory_stats(0)
    tests = connection.per_cpu_stats()
    untouched = pickle.dumps((times, memory, cell, tests))
    with pytest.raises(TypeError, match="'out' has incorrect type"):
        qemu.cpu_stats(out=memory)
    with pytest.raises(ValueError, match="out has the fields"):
        qemu.per_cpu_stats(out=qemu.per_cell_memory_stats())
    with pytest.raises(ValueError, match="out has the fields"):
        qemu.memory_stats(out=cell)
    with pytest.raises(ValueError, match="out has the"):
        qemu.per_cpu_stats(out=tests)
    with pytest.raises(TypeError, match="'out' has incorrect type"):
        qemu.cpu_stats(out={})
    with pytest.raises(TypeError, match="'out' has incorrect type"):
        qemu.per_cpu_stats(out=times)
    with pytest.raises(pyvirhost.InvalidArgumentError):
        qemu.cpu_stats(9999, out=times)
    assert pickle.dumps((times, memory, cell, tests)) == untouched
    empty = pyvirhost.CPUStats.__new__(pyvirhost.CPUStats)
    with pytest.raises(ValueError, match="out has the fields"):
        qemu.cpu_stats(out=empty)


def test_stats_table_maps_numbers_to_rows(connection):
    table = connection.per_cpu_stats()
    assert isinstance(table, Mapping)
    assert (len(table), list(table), table.index) == (3, [0, 2, 4], (0, 2, 4))  # type: ignore[attr-defined]
    assert table[2] == connection.cpu_stats(2)
    assert table[2].unit == table.unit == "ns"  # type: ignore[attr-defined]
    assert 2 in table
    assert 1 not in table
    assert table.get(1) is None
    with pytest.raises(KeyError):
        table[1]


def test_cpu_map_is_asked_by_cpu_number(connection):
    cpu_map = connection.cpu_map()
    assert [cpu in cpu_map for cpu in range(8)] == [
        True, False, True, False, True, False, False, False]
    assert (list(cpu_map), len(cpu_map)) == ([0, 2, 4], 3)
    assert (cpu_map.present, cpu_map.online) == (8, 3)
    assert 8 not in cpu_map
    assert 2 in cpu_map
    assert 3 not in cpu_map
    assert "2" not in cpu_map
    assert -1 not in cpu_map
    assert 2**70 not in cpu_map
    with pytest.raises(TypeError, match="not subscriptable"):
        cpu_map[0]
    assert cpu_map.to_dict() == {cpu: cpu in (0, 2, 4) for cpu in range(8)}


def test_cpu_map_is_a_set(connection):
    cpu_map, again = connection.cpu_map(), connection.cpu_map()
    assert isinstance(cpu_map, AbstractSet)
    assert hash(cpu_map) == hash(frozenset(cpu_map))
    assert len({cpu_map, again, frozenset({0, 2, 4})}) == 1
    for same in ({0, 2, 4}, frozenset({0, 2, 4}), {0: "", 2: "", 4: ""}.keys(), again):
        assert cpu_map == same
        assert same == cpu_map
        assert cpu_map <= same <= cpu_map
        assert cpu_map >= same >= cpu_map
        assert not any([cpu_map < same, cpu_map > same, same < cpu_map, same > cpu_map])
        assert cpu_map & same == cpu_map | same == same & cpu_map == same | cpu_map == {0, 2, 4}
        assert cpu_map - same == cpu_map ^ same == same - cpu_map == same ^ cpu_map == set()
        assert not cpu_map.isdisjoint(same)
    assert {2} < cpu_map < {0, 2, 4, 6}
    assert cpu_map - {2, 3} == {0, 4}
    assert {2, 3} - cpu_map == {3}
    assert cpu_map ^ {2, 3} == {2, 3} ^ cpu_map == {0, 3, 4}
    assert {2, 3} | cpu_map == {0, 2, 3, 4}
    assert cpu_map & {2, 3} == {2, 3} & cpu_map == {2}
    assert cpu_map.isdisjoint([1, 3])
    assert cpu_map != [0, 2, 4]
    for nonsense in (lambda: cpu_map & [0], lambda: [0] - cpu_map, lambda: cpu_map < 1):  # type: ignore[operator]
        with pytest.raises(TypeError, match=r"unsupported operand|not supported"):
            nonsense()


def test_cpu_maps_of_other_hosts_are_not_equal(connection):
    restore, (bits, present, online) = connection.cpu_map().__reduce__()
    assert restore(bits, present - 1, online) != connection.cpu_map()
    # A server that counts otherwise than its own bitmap is taken at the bitmap's word.
    odd = restore(bits, present, 7)
    assert (odd.online, len(odd), list(odd)) == (7, 3, [0, 2, 4])


def test_cells_free_memory_is_asked_by_cell_number(connection):
    cells = connection.cells_free_memory()
    assert isinstance(cells, Mapping)
    assert (len(cells), list(cells), cells.start_cell) == (2, [0, 1], 0)  # type: ignore[attr-defined]
    assert (cells[0], cells[1], sum(cells.values())) == (2097152, 4194304, 6291456)
    second = connection.cells_free_memory(1)
    assert (second.start_cell, second[1], list(second)) == (1, 4194304, [1])
    assert second == {1: 4194304}
    assert second != cells
    assert 0 not in second
    for missing in (0, 2, -1, 2**70, "1", None, slice(None), Liar(0)):
        with pytest.raises(KeyError):
            second[missing]
    match second:
        case {1: free}:
            assert free == 4194304
        case _:
            raise AssertionError


def test_page_counts_are_asked_by_cell_and_page_size(connection):
    counts = connection.free_pages([4, 2048], 1, 1)
    assert (counts.page_sizes, counts.start_cell, counts.cells) == ((4, 2048), 1, range(1, 2))
    assert counts[1, 2048] == 45
    for missing in ((0, 4), (1, 8), (2, 4)):
        with pytest.raises(KeyError):
            counts[missing]
    for nonsense in (1, (1,), "ab", (1, 2, 3)):
        with pytest.raises((TypeError, KeyError)):
            counts[nonsense]


def test_mappings_match_patterns(connection):
    match connection.cpu_stats():
        case {"user": user, "nobody": _}:
            raise AssertionError(user)
        case {"user": user}:
            assert user == 9797400000
        case _:
            raise AssertionError
    match connection.per_cpu_stats():
        case {2: {"idle": idle}}:
            assert idle == 87264900000
        case _:
            raise AssertionError


class Liar(int):
    """An int that compares as it likes."""

    def __ge__(self, other):
        return True

    __gt__ = __le__ = __lt__ = __ge__


def test_an_int_that_lies_reads_nothing_beyond_the_map(connection):
    cpu_map = connection.cpu_map()
    assert Liar(2**30) not in cpu_map
    assert Liar(-(2**30)) not in cpu_map
    assert Liar(2) in cpu_map


def test_pickles_whose_sizes_overflow_are_refused(connection):
    counts = connection.free_pages([4])
    restore, _ = counts.__reduce__()
    for arguments in (((4, 8, 16, 32), 0, 2**62, ()), ((), 0, 2**62, ()), ((4,), 0, -1, ()),
                      ((), 0, 1, ()), ((), 0, 2, (1, 2)), ((4,), 0, 1, (1, 2))):
        with pytest.raises(ValueError, match="counts for"):
            restore(*arguments)
    restore, _ = connection.cpu_map().__reduce__()
    for arguments in ((b"", 2**31 - 1, 0), (b"\1", 2**31 - 1, 0), (b"", -1, 0)):
        with pytest.raises(ValueError, match="bytes for"):
            restore(*arguments)


def test_typed_parameters_hold_nothing_but_values(qemu):
    restore, _ = qemu.memory_parameters().__reduce__()
    with pytest.raises(ValueError, match="no type of libvirt for 'x'"):
        restore({"x": 1}, {"x": "nonsense"})
    with pytest.raises(ValueError, match="no type of libvirt for 'x'"):
        restore({"x": 1}, {})
    with pytest.raises(TypeError, match=r"parameters\['x'\] must be an int, not list"):
        restore({"x": []}, {"x": "uint"})


def test_a_model_that_is_not_utf_8_stays_the_same(connection):
    restore, (_, *numbers) = connection.node_info().__reduce__()
    info = restore(b"\xff" * 31, *numbers)
    assert pickle.loads(pickle.dumps(info)) == info
    assert info.model == "\ufffd" * 31


def test_a_model_that_fills_its_field_ends_there(connection):
    restore, (_, _, *numbers) = connection.node_info().__reduce__()
    assert restore(b"x" * 32, 2**64 - 1, *numbers).model == "x" * 32


def test_versions_are_tuples_with_names():
    version = pyvirhost.Version(9, 0, 1)
    assert (version.major, version.minor, version.release) == version == (9, 0, 1)
    assert (int(version), str(version)) == (9000001, "9.0.1")
    assert version < (10,) < pyvirhost.Version(10, 4, 0)


class Lying(tuple):
    """Says that it is shorter than it is."""

    def __len__(self):
        return 0


class Text(str):
    pass


class Odd:
    """An int to whoever asks, and another each time."""

    def __init__(self):
        self.turn = 0

    def __index__(self):
        self.turn += 1
        return 2**62 if self.turn % 2 else 1

    __int__ = __index__


NONSENSE = [
    None, "x", -1, (), (None,), (2**64,), b"abc", 2**40, True, 1.0, float("nan"), float("inf"),
    2**31, 2**32, 2**62, 2**63, 2**64, numpy.int64(2**62), numpy.int64(1), numpy.float64(1),
    numpy.uint8(1), Odd(), Lying((1, 2, 3)), ("user", "user"), (Text("user"),), ("\ud800",), (1, 1),
    (1, 0), tuple(range(70)), tuple("x" * 70), Text("ns"), {}, {"x": 1}, {1: "int"}, "\ud800",
    {"x": numpy.int64(2**62)}, [], [1, 2],
]


def pickles(value):
    """Of the arguments of a restoring function: the same, or with anything in it changed."""
    if isinstance(value, tuple) and value:
        items = st.sampled_from(value)
        return st.one_of(
            st.just(value), st.sampled_from(NONSENSE), st.lists(items, max_size=40).map(tuple),
            st.tuples(*map(pickles, value)))
    if isinstance(value, dict):
        return st.one_of(
            st.just(value), st.sampled_from(NONSENSE), st.dictionaries(
                st.sampled_from([*value, "x", 1, Text("y")]),
                st.sampled_from([*value.values(), *map(repr, value), 2**64, 1.5, [], "uint"])))
    if type(value) is int:
        return st.one_of(st.just(value), st.sampled_from(NONSENSE), st.integers(-5, 50))
    return st.one_of(st.just(value), st.sampled_from(NONSENSE))


def read_all_of(result):
    """Read whatever it says that it has."""
    assert isinstance(repr(result), str)
    result.to_dict()
    assert pickle.loads(pickle.dumps(result)) == result
    for method in ("__len__", "__iter__", "items", "__bytes__", "__hash__"):
        if getattr(type(result), method, None) is not None:
            found = getattr(type(result), method)(result)
            assert isinstance(found, (int, bytes)) or len(list(found)) < 2000
    if not isinstance(result, (pyvirhost.NodeInfo, pyvirhost.TypedParameters,
                               pyvirhost.HostSnapshot)):
        memoryview(result).tobytes()


@settings(max_examples=int(os.environ.get("EXAMPLES", "300")), deadline=None, database=None,
          suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_pickle_that_anybody_changed_is_a_sound_result_or_refused(results, data):
    result = data.draw(st.sampled_from(
        [result for result in results if not isinstance(result, tuple)]))
    restore, arguments = result.__reduce__()
    try:
        again = restore(*data.draw(st.tuples(*map(pickles, arguments))))
    except (TypeError, ValueError, OverflowError):
        return
    read_all_of(again)


def test_pickles_hold_numbers_of_c_and_nothing_that_looks_like_them(connection):
    counts = connection.free_pages([4])
    restore, (sizes, start, cells, values) = counts.__reduce__()
    with pytest.raises(ValueError, match="counts for"):
        restore(sizes, start, numpy.int64(2**62), values)
    again = restore((numpy.uint32(4),), numpy.int8(0), numpy.int64(cells), values)
    assert again == counts
    assert [type(number) for number in (*again.page_sizes, *again.cells)] == [int] * (1 + cells)
    table = connection.per_cpu_stats()
    restore, (index, *rest) = table.__reduce__()
    again = restore(tuple(map(numpy.int64, index)), *rest)
    assert [type(number) for number in again.index] == [int, int, int]
    for wrong in ((0, 4, 2), (0, 2, 2), (0, 2, "4"), (0, 2, 2**31), (0, 2, 4.0), (0, 2, None)):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            restore(wrong, *rest)
    restore, (fields, values) = connection.cpu_stats().__reduce__()
    with pytest.raises(TypeError, match="a field's name is a str, not Text"):
        restore((Text(fields[0]), *fields[1:]), values)
    for wrong in (1.0, "1", -1, 2**64, None):
        with pytest.raises((TypeError, OverflowError)):
            restore(fields, (wrong, *values[1:]))
    for result in (connection.node_info(), connection.cpu_map(), connection.cells_free_memory()):
        restore, arguments = result.__reduce__()
        for position, argument in enumerate(arguments):
            if isinstance(argument, int):
                with pytest.raises(TypeError, match="float"):
                    restore(*arguments[:position], argument + 0.5, *arguments[position + 1:])


def test_names_of_pythons_own_protocols_are_no_fields(connection):
    restore, (fields, values) = connection.cpu_stats().__reduce__()
    names = ("__deepcopy__", "__reduce_ex__", "__array_interface__", "__array_struct__",
             "__array__", "__copy__", "__len__", "__getstate__")
    stats = restore((*fields, *names), (*values, *range(len(names))))
    assert stats["__deepcopy__"] == 0
    assert not hasattr(stats, "__deepcopy__")
    with pytest.raises(AttributeError, match="no field or attribute '__copy__'"):
        stats.__copy__  # noqa: B018
    assert copy.deepcopy(stats) == copy.copy(stats) == stats == pickle.loads(pickle.dumps(stats))
    assert numpy.asarray(stats).tolist() == list(stats.values())

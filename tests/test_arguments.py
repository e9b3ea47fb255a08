"""Bad input: a specific exception that names the argument, before libvirt is called."""

import contextlib
import ctypes
import enum
import re
import sys

import pytest
from daemon import stopped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyvirhost

UINT_MAX = 2 ** (8 * ctypes.sizeof(ctypes.c_uint)) - 1
INT_MAX = 2 ** (8 * ctypes.sizeof(ctypes.c_int) - 1) - 1

TEXTS = [
    ("max_vcpus", "type", lambda c, value: c.max_vcpus(value)),
    ("cpu_model_names", "arch", lambda c, value: c.cpu_model_names(value)),
    ("compare_cpu", "xml", lambda c, value: c.compare_cpu(value)),
    ("compare_hypervisor_cpu", "xml", lambda c, value: c.compare_hypervisor_cpu(value)),
    *((name, argument, lambda c, value, name=name, argument=argument:
       getattr(c, name)(["<cpu/>"] if name[0] == "b" else "<cpu/>", **{argument: value}))
      for name in ("compare_hypervisor_cpu", "baseline_hypervisor_cpu")
      for argument in ("emulator", "arch", "machine", "virttype")),
    ("baseline_cpu", "xml_cpus[0]", lambda c, value: c.baseline_cpu([value])),
    ("baseline_cpu", "xml_cpus[1]", lambda c, value: c.baseline_cpu(["<cpu/>", value])),
    ("baseline_hypervisor_cpu", "xml_cpus[0]", lambda c, value: c.baseline_hypervisor_cpu([value])),
    ("open", "uri", lambda _, value: pyvirhost.open(value)),
]
OPTIONAL = {"type", "uri", "emulator", "arch", "machine", "virttype"}

UNSIGNED = [
    ("flags", lambda c, value: pyvirhost.open("test:///default", flags=value)),
    ("flags", lambda c, value: c.sysinfo(value)),
    ("flags", lambda c, value: c.cpu_model_names("x86_64", value)),
    ("flags", lambda c, value: c.compare_cpu("<cpu/>", value)),
    ("flags", lambda c, value: c.compare_hypervisor_cpu("<cpu/>", flags=value)),
    ("flags", lambda c, value: c.baseline_cpu(["<cpu/>"], value)),
    ("flags", lambda c, value: c.baseline_hypervisor_cpu(["<cpu/>"], flags=value)),
    ("flags", lambda c, value: c.cpu_map(value)),
    ("flags", lambda c, value: c.cpu_stats(flags=value)),
    ("flags", lambda c, value: c.memory_stats(flags=value)),
    ("flags", lambda c, value: c.memory_parameters(value)),
    ("flags", lambda c, value: c.set_memory_parameters({"shm_pages_to_scan": 1}, value)),
    ("flags", lambda c, value: c.sev_info(value)),
    ("flags", lambda c, value: c.free_pages([4], flags=value)),
    ("flags", lambda c, value: c.alloc_pages({4: 0}, flags=value)),
    ("flags", lambda c, value: c.suspend_for_duration(0, 60, value)),
    ("target", lambda c, value: c.suspend_for_duration(value, 60)),
    ("cell_count", lambda c, value: c.free_pages([4], 0, -1 if value is None else value)),
    ("cell_count", lambda c, value: c.alloc_pages({4: 0}, 0, value)),
    ("page_sizes[0]", lambda c, value: c.free_pages([value])),
    ("page_sizes[1]", lambda c, value: c.free_pages([4, value])),
    ("parameters['shm_pages_to_scan']",
     lambda c, value: c.set_memory_parameters({"shm_pages_to_scan": value})),
]
UNSIGNED_LONG = [
    ("duration", lambda c, value: c.suspend_for_duration(0, value)),
    ("pages[2048]", lambda c, value: c.alloc_pages({2048: value})),
]
SIGNED = [
    ("cpu", lambda c, value: c.cpu_stats(value)),
    ("cell", lambda c, value: c.memory_stats(value)),
    ("start_cell", lambda c, value: c.cells_free_memory(value)),
    ("start_cell", lambda c, value: c.free_pages([4], value)),
    ("start_cell", lambda c, value: c.alloc_pages({4: 0}, value)),
    ("max_cells", lambda c, value: c.cells_free_memory(0, 1.5 if value is None else value)),
]


def named(cases):
    return [pytest.param(*case, id=f"{number}-{case[0]}") for number, case in enumerate(cases)]


def words(argument):
    """A pattern for the argument's name as the first word of the message."""
    return "^" + "".join(f"\\{char}" if char in "[]" else char for char in argument) + " must be"


@pytest.mark.parametrize(("method", "argument", "call"), TEXTS)
def test_texts(connection, method, argument, call):
    values = [b"bytes", bytearray(b"x"), 5, 1.5, ["<cpu/>"], object()]
    if argument not in OPTIONAL or (method, argument) == ("cpu_model_names", "arch"):
        values.append(None)
    for value in values:
        with pytest.raises(TypeError, match=words(argument) + " a str, not "):
            call(connection, value)
    with pytest.raises(ValueError, match=words(argument)[:-3] + " not contain a NUL|NUL"):
        call(connection, "nul\0inside")
    with pytest.raises(ValueError, match="surrogate"):
        call(connection, "\ud800")


@pytest.mark.parametrize(("argument", "call"), named(UNSIGNED))
def test_unsigned_ints(connection, argument, call):
    for value in (-1, -(2**31), UINT_MAX + 1, 2**64, 2**200):
        with pytest.raises(OverflowError, match=words(argument) + " between 0 and 4294967295"):
            call(connection, value)
    for value in ("1", b"1", 1.0, None, [1]):
        with pytest.raises((TypeError, OverflowError), match=words(argument)):
            call(connection, value)


@pytest.mark.parametrize(("argument", "call"), named(UNSIGNED_LONG))
def test_unsigned_long_ints(connection, argument, call):
    for value in (-1, 2**64, 2**200):
        with pytest.raises(OverflowError, match=words(argument) + " between 0 and 184467"):
            call(connection, value)
    for value in ("1", 1.0, None):
        with pytest.raises(TypeError, match=words(argument) + " an int"):
            call(connection, value)


@pytest.mark.parametrize(("argument", "call"), named(SIGNED))
def test_signed_ints(connection, argument, call):
    for value in (INT_MAX + 1, -INT_MAX - 2, 2**64, -(2**200)):
        with pytest.raises(OverflowError, match=words(argument) + " between -2147483648 and"):
            call(connection, value)
    for value in ("1", 1.0, None, [1]):
        with pytest.raises(TypeError, match=words(argument) + " an int"):
            call(connection, value)


@pytest.mark.parametrize(("argument", "call"), [
    ("xml_cpus", lambda c, value: c.baseline_cpu(value)),
    ("xml_cpus", lambda c, value: c.baseline_hypervisor_cpu(value)),
    ("page_sizes", lambda c, value: c.free_pages(1.5 if value is None else value)),
])
def test_lists(connection, argument, call):
    for value in ("<cpu/>", b"<cpu/>", None, 5):
        with pytest.raises(TypeError, match=words(argument) + " a list of"):
            call(connection, value)
    for value in ([], (), iter(())):
        with pytest.raises(ValueError, match=f"^{argument} must not be empty"):
            call(connection, value)


def test_any_iterable_will_do_for_a_list(connection):
    assert connection.free_pages((4,)) == connection.free_pages(iter([4]))
    cpu = "<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"
    assert connection.baseline_cpu((cpu,)) == connection.baseline_cpu(iter([cpu]))


def test_page_sizes_of_zero(connection):
    with pytest.raises(ValueError, match=r"^page_sizes\[1\] must be a page size in KiB, not 0"):
        connection.free_pages([4, 0])
    with pytest.raises(ValueError, match=r"^pages must be a page size in KiB, not 0"):
        connection.alloc_pages({0: 1})


def test_more_counts_than_the_protocol_carries(connection):
    for sizes, cells in (([4], 1025), ([4, 8], 513), ([4] * 1025, 1), ([4] * 5000, None),
                         ([4], UINT_MAX), ([4] * 1000, UINT_MAX)):
        with pytest.raises(ValueError, match="page_sizes times cell_count must be at most 1024"):
            connection.free_pages(sizes, 0, cells)
    with pytest.raises(ValueError, match="pages must have at most 1024 sizes"):
        connection.alloc_pages(dict.fromkeys(range(1, 1026), 0))
    assert len(connection.cells_free_memory(0, INT_MAX)) == 2


@pytest.mark.parametrize("name", ["set_memory_parameters", "alloc_pages"])
def test_mappings(connection, name):
    argument = {"set_memory_parameters": "parameters", "alloc_pages": "pages"}[name]
    for value in (None, 5, "abc", [("shm_pages_to_scan", 1)], {"shm_pages_to_scan"}):
        with pytest.raises(TypeError, match=f"^{argument} must be a mapping"):
            getattr(connection, name)(value)
    with pytest.raises(ValueError, match=f"^{argument} must not be empty"):
        getattr(connection, name)({})


def test_parameters_that_nobody_knows_or_may_set_set_nothing(qemu):
    before = qemu.memory_parameters()
    for name in ("shm_pages", "", "x" * 500, "shm_pages_shared", "shm_full_scans", 5, None):
        with pytest.raises(ValueError, match=r"^parameters has .*; only .* can be set"):
            qemu.set_memory_parameters({"shm_pages_to_scan": 77, name: 1})
    for value in ("77", 77.0, None, [77]):
        with pytest.raises(TypeError, match=r"^parameters\['shm_sleep_millisecs'\] must be an int"):
            qemu.set_memory_parameters({"shm_pages_to_scan": 77, "shm_sleep_millisecs": value})
    with pytest.raises(OverflowError, match=r"^parameters\['shm_sleep_millisecs'\]"):
        qemu.set_memory_parameters({"shm_pages_to_scan": 77, "shm_sleep_millisecs": 2**32})
    after = qemu.memory_parameters()
    for name in ("shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes"):
        assert after[name] == before[name]


def test_typed_parameters_of_another_make_are_checked_too(qemu):
    restore, (contents, types) = qemu.memory_parameters().__reduce__()
    for change in ({"shm_pages_to_scan": "x"}, {"shm_pages_to_scan": -1}):
        with pytest.raises((TypeError, OverflowError), match=r"parameters\['shm_pages_to_scan'\]"):
            qemu.set_memory_parameters(restore({**contents, **change}, types))
    counters = {name: value for name, value in contents.items() if "pages_sh" in name}
    with pytest.raises(ValueError, match="parameters has no setting that can be changed"):
        qemu.set_memory_parameters(restore(counters, {name: types[name] for name in counters}))
    for kind, value in (("int", 5), ("llong", -5), ("double", 1.5), ("boolean", True),
                        ("string", "x"), ("uint", 5)):
        with pytest.raises(pyvirhost.LibvirtError):
            qemu.set_memory_parameters(restore({"unknown": value}, {"unknown": kind}))


class Text(str):
    __slots__ = ()


def test_a_subclass_of_str_is_a_str(qemu, connection):
    with pytest.raises(pyvirhost.LibvirtError, match="shm_pages_to_scan"):
        qemu.set_memory_parameters({Text("shm_pages_to_scan"): 1})
    assert connection.cpu_model_names(Text("x86_64"))


def test_members_of_an_enum_are_text_like_any_other(daemon):
    class Name(enum.StrEnum):
        URI = daemon.test_uri
        ARCH = "x86_64"
        TYPE = "qemu"
        CPU = "<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"
        USER = "her"

    for timeout in (None, 20):
        with pyvirhost.open(Name.URI, timeout=timeout) as connection:
            assert connection.uri() == daemon.test_uri
    with (stopped(daemon),
          pytest.raises(pyvirhost.OperationTimeoutError, match=re.escape(daemon.test_uri))):
        pyvirhost.open(Name.URI, timeout=0.05)
    hypervisor = {"emulator": Name.ARCH, "arch": Name.ARCH, "machine": Name.ARCH,
                  "virttype": Name.TYPE}
    with pyvirhost.open(daemon.qemu_uri) as connection:
        assert connection.cpu_model_names(Name.ARCH)
        assert connection.baseline_cpu([Name.CPU])
        for call in (lambda: connection.max_vcpus(Name.TYPE),
                     lambda: connection.compare_cpu(Name.CPU),
                     lambda: connection.compare_hypervisor_cpu(Name.CPU, **hypervisor),
                     lambda: connection.baseline_hypervisor_cpu([Name.CPU], **hypervisor),
                     lambda: connection.set_identity({"user-name": Name.USER})):
            with contextlib.suppress(pyvirhost.LibvirtError):
                call()


def test_mappings_whose_items_are_none(connection):
    class Strange:
        def __init__(self, items):
            self.items = items

    for items in (lambda: [1], lambda: [(1, 2, 3)], lambda: 5, lambda: [()]):
        with pytest.raises(TypeError, match=r"^pages must be a mapping"):
            connection.alloc_pages(Strange(items))

    def fails():
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^pages must be a mapping") as caught:
        connection.alloc_pages(Strange(fails))
    assert str(caught.value.__cause__) == "mine"


class Unruly:
    """An argument whose every use fails or, worse, closes the connection."""

    def __init__(self, connection):
        self.connection = connection

    def __index__(self):
        self.connection.close()
        return 0

    def __iter__(self):
        self.connection.close()
        raise ZeroDivisionError

    def items(self):
        self.connection.close()
        return [(4, self)]


@pytest.mark.thread_unsafe(reason="writes the file of its host")
def test_an_argument_that_closes_the_connection(open_node):
    for call in (
        lambda c: c.cpu_stats(Unruly(c)), lambda c: c.free_pages([Unruly(c)]),
        lambda c: c.free_pages(Unruly(c)), lambda c: c.baseline_cpu(Unruly(c)),
        lambda c: c.alloc_pages(Unruly(c)), lambda c: c.set_memory_parameters(Unruly(c)),
        lambda c: c.sysinfo(Unruly(c)), lambda c: c.cells_free_memory(Unruly(c)),
    ):
        connection = open_node("")
        with pytest.raises((pyvirhost.ConnectionClosedError, ZeroDivisionError, ValueError)):
            call(connection)


def test_too_many_arguments_are_type_errors(connection):
    with pytest.raises(TypeError):
        connection.node_info(1)
    with pytest.raises(TypeError):
        connection.cpu_stats(0, 0, None)
    with pytest.raises(TypeError):
        pyvirhost.open("test:///default", True)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        connection.close(1)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-5, 300), st.floats(),
    st.text(max_size=30), st.binary(max_size=10), st.lists(st.integers(-2, 5000), max_size=4),
    st.lists(st.text(max_size=8), max_size=3), st.dictionaries(st.integers(), st.integers()),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3), st.just(object()),
    st.sampled_from(["<cpu/>", "<cpu><arch>x86_64</arch></cpu>", "x86_64", "test:///default"]),
)
METHODS = sorted(
    name for name in dir(pyvirhost.Connection) if not name.startswith("_")
    and name not in ("close", "closed", "suspend_for_duration"))
EXPECTED = (TypeError, ValueError, OverflowError, pyvirhost.LibvirtError)


@settings(max_examples=400, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(METHODS), st.lists(ANYTHING, max_size=4), ANYTHING)
def test_whatever_is_passed_it_is_an_answer_or_an_expected_error(connection, name, args, flags):
    for keywords in ({}, {"flags": flags}):
        with contextlib.suppress(*EXPECTED):
            result = getattr(connection, name)(*args, **keywords)
            if isinstance(result, pyvirhost.Connection):
                result.close()
    assert connection.node_info().cpus == 16


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).filter(lambda text: "//" not in text))
def test_whatever_uri_is_opened_it_is_an_answer_or_an_expected_error(text):
    # The driver is in this process, so none of them can name another host.
    for uri in (f"test:///{text}", f"test:///default?{text}"):
        with contextlib.suppress(*EXPECTED):
            pyvirhost.open(uri, flags=pyvirhost.ConnectFlags.NO_ALIASES).close()


@pytest.mark.thread_unsafe(reason="counts references")
def test_arguments_are_not_leaked(connection):
    text = "<cpu" + "x" * 100
    numbers = [4]
    before = sys.getrefcount(text), sys.getrefcount(numbers)
    for _ in range(100):
        with contextlib.suppress(pyvirhost.LibvirtError):
            connection.compare_cpu(text)
        with contextlib.suppress(pyvirhost.LibvirtError):
            connection.baseline_cpu([text])
        connection.free_pages(numbers)
    assert (sys.getrefcount(text), sys.getrefcount(numbers)) == before

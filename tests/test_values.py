"""Results as JSON has them, also where the server says what JSON has not."""

import json
import math
import struct

import pytest
from daemon import wait_until
from hostile import Answers, longs, node_info, numbers, stats, text, typed_parameters
from test_writes import POOL, put_back

import pyvirhost
from pyvirhost.values import (
    comparison_values,
    error_values,
    free_huge_pages,
    in_percent,
    ksm_values,
    memory_in_use,
    parameter_values,
    snapshot_values,
)

GET_INFO, CELLS_FREE_MEMORY, FREE_MEMORY, MEMORY_STATS, FREE_PAGES = 6, 101, 102, 228, 340
MEMORY_PARAMETERS = 289
KIB, MIB = 1024, 1024**2
MEMORY = ("node_info", "memory_stats", "free_memory", "free_pages")


@pytest.fixture
def answers(daemon):
    with Answers(daemon) as answers:
        yield answers


@pytest.fixture
def memory(answers):
    """A function that makes the snapshot of a host of two cells whose memory is as given."""
    def memory(stats_of=None, free=0, total=0, pages=None, fields=MEMORY):
        fields_of = [(name.encode(), amount) for name, amount in (stats_of or {}).items()]
        answers.replies = {
            GET_INFO: [node_info(memory=total)], FREE_MEMORY: [longs(free)],
            CELLS_FREE_MEMORY: [numbers(2) + longs(1, 1)],
            FREE_PAGES: [numbers(len(pages)) + longs(*pages) if pages else b""],
            # At first libvirt asks how many there are.
            MEMORY_STATS: [stats(count=len(fields_of)), stats(*fields_of)] if stats_of else [b""]}
        with pyvirhost.open(answers.qemu_uri) as connection:
            return connection.snapshot(fields, page_sizes=[4, 2048, 1048576])
    return memory


# In MiB, but for the pages: those of 4 KiB, 2 MiB and 1 GiB in one cell and then in the other.
PAGES = (7, 100, 0, 7, 156, 1)
HUGE = 2 * (100 + 156) + 1024


@pytest.mark.parametrize("pages", [PAGES, (7, 0, 0, 7, 0, 0), None],
                         ids=["huge pages", "none free", "not told"])
@pytest.mark.parametrize(("told", "spare"), [
    ({"stats_of": {"total": 8192, "free": 1000, "buffers": 20, "cached": 300, "available": 1250}},
     1250),
    ({"stats_of": {"total": 8192, "free": 1000, "buffers": 20, "cached": 300}}, 1320),
    ({"stats_of": {"total": 8192, "free": 1000}}, 1000),
    ({"total": 8192, "free": 1000}, 1000),
], ids=["available", "buffers and cached", "free", "node information"])
def test_free_huge_pages_are_not_in_use(memory, told, spare, pages):
    told = {**told, "pages": pages}
    if "stats_of" in told:
        told["stats_of"] = {name: amount * KIB for name, amount in told["stats_of"].items()}
    else:
        told |= {"total": told["total"] * KIB, "free": told["free"] * MIB}
    huge = HUGE if pages is PAGES else 0
    assert memory_in_use(memory(**told)) == ((8192 - spare - huge) * MIB, 8192 * MIB)


def test_memory_in_use_is_neither_negative_nor_more_than_there_is(memory):
    def used(**told):
        return memory_in_use(memory(**told))

    # Counted a moment later, or with caches in it twice.
    assert used(total=2048 * KIB, free=1024 * MIB, pages=PAGES) == (0, 2048 * MIB)
    assert used(total=1024, free=2**64 - 1) == (0, MIB)
    assert used(total=1024, free=0, pages=(0,) * 6) == (MIB, MIB)
    # That many pages there can't be, so they tell nothing.
    assert used(total=1024 * KIB, free=MIB, pages=PAGES) == (1023 * MIB, 1024 * MIB)
    assert used(total=1024, free=0, pages=(2**64 - 2,) * 6) == (MIB, MIB)


def test_memory_that_is_not_told_is_unknown(memory):
    assert memory_in_use(memory(total=4, pages=PAGES, fields=("node_info", "free_pages"))) == (
        None, 4 * KIB)
    assert memory_in_use(memory(fields=("free_memory",))) == (None, None)


def test_the_smallest_pages_are_no_huge_ones(memory):
    assert free_huge_pages(memory(pages=PAGES)) == {KIB**3: 1, 2 * MIB: 256}
    assert free_huge_pages(memory(fields=("node_info",))) == {}


def test_reserving_huge_pages_takes_no_memory_into_use(root_daemon):
    reserved = 128 * MIB
    with pyvirhost.open(root_daemon.qemu_uri) as host, put_back(POOL):
        before, total = memory_in_use(host.snapshot(MEMORY))
        free = dict(free_huge_pages(host.snapshot(MEMORY)))[2 * MIB]
        host.alloc_pages({2048: reserved // (2 * MIB)}, 0, 1,
                         pyvirhost.AllocPagesFlags.ADD)
        assert dict(free_huge_pages(host.snapshot(MEMORY)))[2 * MIB] == free + 64
        # What else the machine does in this moment is not half as much for long.
        wait_until(lambda: memory_in_use(host.snapshot(MEMORY))[0] < before + reserved // 2,
                   "memory in use as before")
        assert memory_in_use(host.snapshot(MEMORY))[1] == total


# ---- what a server should not say ---------------------------------------------------------------

def double(value):
    return struct.pack(">d", value)


NUMBERS = typed_parameters(
    (b"shm_pages_to_scan", 2, numbers(100)), (b"shm_sleep_millisecs", 7, text(b"soon")),
    (b"shm_full_scans", 5, double(math.nan)), (b"shm_pages_shared", 5, double(-math.inf)),
    (b"shm_merge_across_nodes", 7, text(b"")), (b"shm_mode", 7, text(b"fast")))
TOLD = {"pages_to_scan": 100, "sleep_seconds": None, "full_scans": None, "pages_shared": None,
        "merge_across_nodes": None, "mode": "fast"}
NO_NUMBER = {"type": "ValueError", "message": "the server sent a text instead of a number"}
NOT_FINITE = {"type": "ValueError", "message": "the server sent nan, which is not a finite number"}
REASONS = {"sleep_seconds": NO_NUMBER, "merge_across_nodes": NO_NUMBER, "full_scans": NOT_FINITE,
           "pages_shared": {**NOT_FINITE, "message": NOT_FINITE["message"].replace("nan", "-inf")}}


def test_ksm_that_is_no_number_is_none_and_says_why(proxy):
    proxy.change_reply = lambda procedure, body: (
        NUMBERS if procedure == MEMORY_PARAMETERS else body)
    with pyvirhost.open(proxy.qemu_uri) as connection:
        assert ksm_values(connection.memory_parameters()) == (TOLD, REASONS)
        values = snapshot_values(connection.snapshot(["memory_parameters", "free_memory"]))
    assert values["memory_parameters"] == TOLD
    assert values["errors"] == {
        f"memory_parameters.{key}": reason for key, reason in REASONS.items()}
    json.dumps(values, allow_nan=False)


def test_parameters_that_are_fine_have_no_reason():
    parameters = {"a": 1, "b": 2.5, "c": "", "d": True, "e": -1, "f": 2**64 - 1}
    assert parameter_values(parameters) == (parameters, {})
    assert ksm_values({"shm_sleep_millisecs": 20, "shm_merge_across_nodes": 0}) == (
        {"sleep_seconds": 0.02, "merge_across_nodes": False}, {})


def test_an_error_has_its_type_and_its_message():
    error = pyvirhost.NotSupportedError("no such thing")
    assert error_values(error) == {"type": "NotSupportedError", "message": "no such thing"}
    assert error_values(error, "host: no") == {"type": "NotSupportedError", "message": "host: no"}


def test_a_comparison_that_is_not_known_is_unknown():
    words = ["incompatible", "identical", "superset", "unknown", "unknown"]
    assert [comparison_values(result)["host_cpu"] for result in (0, 1, 2, 3, 77)] == words


def test_a_mode_that_is_not_known_has_no_share():
    rates = pyvirhost.CPURates(0.25, 0.5, 0.25, None, None, None, 0.75)
    assert in_percent(rates, {"user": 1, "steal": 2, "to_dict": 3, "utilization": 4}) == {
        "busy_percent": 75.0, "user_percent": 50.0, "steal_percent": None, "to_dict_percent": None}
    assert in_percent(None, {"user": 1}) == {"busy_percent": None, "user_percent": None}

"""What top knows of hosts, and the rows that it makes of that, without a terminal."""

import threading
from collections import deque
from dataclasses import replace

import pytest
from daemon import wait_until
from fleets import hosts_of
from hostile import Answers, stats
from test_values import MEMORY_PARAMETERS, NUMBERS

import pyvirhost
from pyvirhost import Host, Sample
from pyvirhost.cli.top.model import FIELDS, Figures, State, Watch, Watched, figures_of
from pyvirhost.cli.top.rows import (
    COLUMNS,
    CPU_COLUMNS,
    GAP,
    Column,
    Row,
    age_text,
    cell_columns,
    cell_numbers,
    cell_row,
    cpu_numbers,
    cpu_row,
    fitting,
    graph,
    host_lines,
    host_row,
    ordered,
)

TEST = "test:///default"
KIB = 1024
LIMIT = 10.0
BY_NAME = {column.name: column for column in COLUMNS}


def sampled(connection, earlier=None, fields=FIELDS):
    snapshot = connection.snapshot(fields)
    return Sample("host", snapshot, snapshot.rates(earlier and earlier.snapshot), None,
                  snapshot.started_at, 0.001)


def failed(message="Connection refused"):
    return Sample("host", None, None, pyvirhost.LibvirtError(message), 0.0, 0.001)


def watched(name="host", figures=None, sample=None, at=0.0):
    host = Watched(name, at)
    if sample is not None:
        host.take(sample, at)
    if figures is not None:
        host.figures = Figures(**figures)
    return host


def cpu_rows(host):
    return [cpu_row(host, cpu) for cpu in cpu_numbers(host)]


def cell_rows(host):
    return [cell_row(host, cell) for cell in cell_numbers(host)]


# ---- figures ------------------------------------------------------------------------------------

def test_figures_of_a_host_that_tells_little(connection):
    # Which numbers there are depends on the version of the test driver.
    pages = connection.free_pages([4, 8, 2048, KIB**2], 0, 2)
    assert figures_of(sampled(connection)) == Figures(
        used=connection.node_info().memory * KIB - connection.free_memory(),
        total=connection.node_info().memory * KIB,
        cells=tuple(connection.cells_free_memory().values()),
        # All but the smallest pages, which are of 4 KiB.
        huge=tuple((size * KIB, pages[0, size] + pages[1, size])
                   for size in (KIB**2, 2048, 8)))


def test_figures_of_a_real_host(qemu):
    first = sampled(qemu)
    later = []

    def busy():
        later.append(sampled(qemu, first))
        return later[-1].rates.cpu is not None

    wait_until(busy, "time to pass on the host")
    figures = figures_of(later[-1])
    assert (figures.busy, figures.user) == (later[-1].rates.cpu.busy, later[-1].rates.cpu.user)
    assert figures.user + figures.kernel + figures.iowait + figures.idle == pytest.approx(
        1, abs=0.01)
    stats = later[-1].snapshot.memory_stats
    assert figures.total == stats.total * KIB
    # Which a newer libvirt reports.
    spare = stats.free + stats.buffers + stats.cached if stats.available is None else (
        stats.available)
    assert figures.used == (stats.total - spare) * KIB
    assert figures.ksm == qemu.memory_parameters()["shm_pages_sharing"]
    assert figures.problems == ()


def test_a_field_that_failed_is_a_problem_and_one_that_there_is_not_is_none(connection):
    host = watched(sample=sampled(connection))
    assert host.state(1.0, LIMIT) is State.FRESH
    host.figures = host.figures._replace(problems=("free_memory: broken",))
    assert host.state(1.0, LIMIT) is State.PARTIAL
    assert host_row(host, 1.0, LIMIT).cells["state"] == "part"
    assert ("free_memory: broken", "red") in host_lines(host, 1.0, LIMIT)


# ---- how far they can be trusted ----------------------------------------------------------------

def test_a_host_waits_then_is_fresh_then_stale(connection):
    host = watched(at=100.0)
    assert host.state(100.0, LIMIT) is State.WAITING
    assert host_row(host, 103.0, LIMIT) == Row(
        {"host": "host", "state": "wait", "age": "3 s"}, {}, State.WAITING, "no answer yet")
    host.take(sampled(connection), 105.0)
    assert host.state(115.0, LIMIT) is State.FRESH
    assert host.state(115.1, LIMIT) is State.STALE
    row = host_row(host, 120.0, LIMIT)
    assert (row.state, row.cells["state"], row.cells["age"]) == (State.STALE, "stale", "15 s")


def test_a_host_that_fails_shows_its_error_in_place_of_old_figures(connection):
    host = watched(sample=sampled(connection), at=100.0)
    host.take(failed("Connection\x1b[2J refused"), 105.0)
    row = host_row(host, 107.0, LIMIT)
    assert row == Row({"host": "host", "state": "error", "age": "7 s"}, {}, State.FAILED,
                      "Connection\\x1b[2J refused")
    assert host.figures == Figures()  # so that it is not sorted by what it was
    head, problem, *rest = host_lines(host, 107.0, LIMIT)
    assert head == ("host  error, no answer for 7 s", "red")
    assert problem == ("Connection\\x1b[2J refused", "red")
    assert rest
    assert {colour for _, colour in rest} == {"dim"}
    host.take(sampled(connection), 110.0)
    assert host_row(host, 110.0, LIMIT).state is State.FRESH


def test_a_sample_counts_once_and_a_missing_one_is_a_gap(connection):
    host = watched()
    sample = sampled(connection)
    for _ in range(3):
        host.take(sample, 1.0)
    host.take(failed(), 2.0)
    assert list(host.history) == [None, None]
    assert graph([0.0, None, 0.5, 1.0], 6) == "  ▁ ▅█"
    assert graph([0.0] * 9 + [1.0], 3) == "▁▁█"


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (59.6, "60 s"), (99.4, "99 s"), (120, "2.0 min"), (750, "12.5 min"),
    (7200, "2.0 h")])
def test_ages_are_short(seconds, text):
    assert age_text(seconds) == text
    assert len(text) <= BY_NAME["age"].width


# ---- rows ---------------------------------------------------------------------------------------

def test_a_row_has_a_cell_for_every_column(connection):
    row = host_row(watched(sample=sampled(connection)), 0.0, LIMIT)
    assert row.cells.keys() == BY_NAME.keys()
    assert row.cells["memory"] == "3.0G/3.0G"
    assert row.cells["cells"] == "2.0M 4.0M"
    assert row.cells["huge"] == "3522x1G 1754x2M 870x8K"


def test_the_names_of_hosts_and_errors_are_made_harmless():
    host = watched("bad\x1b[2J\u202ename", sample=failed("a\nb\x07"))
    row = host_row(host, 0.0, LIMIT)
    assert (row.cells["host"], row.message) == ("bad\\x1b[2J\\u202ename", "a b\\x07")


FLEET = {
    "b": {"busy": 0.5, "used": 10, "cells": (3, 9), "huge": ((2048, 4),), "ksm": 0},
    "A": {"busy": 0.1, "used": 30, "cells": (5, 6), "huge": ((2048, 5),), "ksm": 7},
    "c": {"busy": 0.9, "used": 20, "cells": (8,), "huge": ((2048, 3),), "ksm": 3},
    "dark": {},
}


@pytest.mark.parametrize(("column", "order"), [
    ("host", "A b c dark"), ("busy", "c b A dark"), ("memory", "A c b dark"),
    ("cells", "b A c dark"), ("huge", "A b c dark"), ("ksm", "A c b dark")])
def test_hosts_are_sorted_with_unknown_ones_last(column, order):
    hosts = [watched(name, figures) for name, figures in FLEET.items()]
    assert [host.name for host in ordered(hosts, BY_NAME[column])] == order.split()
    known = order.split() if column == "host" else order.split()[:-1]
    reverse = [host.name for host in ordered(hosts, BY_NAME[column], reverse=True)]
    assert reverse == [*known[::-1], *order.split()[len(known):]]


def test_trouble_and_age_come_first_in_their_order(connection):
    good = watched("good", sample=sampled(connection), at=5.0)
    bad = watched("bad", sample=failed(), at=3.0)
    part = watched("part", sample=sampled(connection), at=4.0)
    part.figures = part.figures._replace(problems=("ksm: broken",))
    hosts = [good, bad, part]
    assert ordered(hosts, BY_NAME["state"]) == [bad, part, good]
    assert ordered(hosts, BY_NAME["age"]) == [bad, part, good]


def test_a_filter_is_part_of_a_name_in_whatever_case():
    hosts = [watched(name) for name in ("web1", "WEB2", "db[1]")]
    column = BY_NAME["host"]
    assert [host.name for host in ordered(hosts, column, wanted="Web")] == ["web1", "WEB2"]
    assert [host.name for host in ordered(hosts, column, wanted="[")] == ["db[1]"]
    assert ordered(hosts, column, wanted="none") == []


@pytest.mark.parametrize("width", [30, 60, 80, 100, 132, 150, 400])
@pytest.mark.parametrize("columns", [COLUMNS, CPU_COLUMNS], ids=["hosts", "cpus"])
def test_columns_fit_and_the_most_important_stay(columns, width):
    fit = fitting(columns, width)
    total = sum(column.width + GAP for column in fit) - GAP
    assert total <= width or len(fit) == 1
    left_out = [column.rank for column in columns
                if column.name not in {one.name for one in fit}]
    assert not left_out or min(left_out) >= max(column.rank for column in fit)
    if width >= 60:
        assert {column.name for column in columns if column.rank == 0} <= {
            column.name for column in fit}


def test_what_can_be_sorted_has_a_key_of_its_own():
    keys = [column.key for column in COLUMNS if column.key]
    assert len(keys) == len(set(keys))
    assert not {"p", "q"} & set(keys)
    # There is room for the mark at the title.
    assert all(len(column.title) < column.width for column in COLUMNS if column.key)
    assert all(bool(column.key) == (column.order is not None) for column in COLUMNS)
    with pytest.raises(AssertionError):
        ordered([], Column("x", "X", 1))


# ---- one host, closely --------------------------------------------------------------------------

def test_a_close_look_has_every_cell_and_cpu(connection):
    host = watched(sample=sampled(connection, fields=pyvirhost.ALL_FIELDS))
    assert [row.cells["cpu"] for row in cpu_rows(host)] == ["0", "2", "4"]
    assert {row.cells["busy"] for row in cpu_rows(host)} == {"-"}
    assert [column.title for column in cell_columns(host)] == [
        "Cell", "Free", "Total", "Free 4K pages", "Free 8K pages", "Free 2M pages",
        "Free 1G pages"]
    pages = connection.free_pages([4, 8, 2048, KIB**2], 0, 2)
    assert [row.cells for row in cell_rows(host)] == [
        {"cell": str(cell), "free": free} | {
            f"pages{size}": f"{pages[cell, size]:,}" for size in pages.page_sizes}
        for cell, free in ((0, "2.0M"), (1, "4.0M"))]
    assert cpu_rows(watched()) == cell_rows(watched()) == []


def test_cpus_that_are_gone_are_forgotten(connection):
    host = watched()
    half = pyvirhost.CPURates(0.5, 0.0, 0.5, None, None, None, 0.5)
    for begin in range(0, 300, 3):
        rates = pyvirhost.HostRates(None, {0: half, **{begin + cpu: half for cpu in (1, 2)}})
        host.take(replace(sampled(connection), rates=rates), begin)
    host.take(replace(sampled(connection), rates=pyvirhost.HostRates(None, None)), 300.0)
    assert host.cpus == {0: deque([0.5] * 100), 298: deque([0.5]), 299: deque([0.5])}


def test_what_a_server_says_of_memory_does_not_drive_the_terminal(daemon):
    with Answers(daemon) as answers:
        memory_stats = 228
        answers.replies = {
            MEMORY_PARAMETERS: [NUMBERS.replace(b"shm_mode", b"\x1b[2Jmode")],
            memory_stats: [stats(count=4), stats(*[(b"\x1b[2J", 5)] * 4)]}
        with pyvirhost.open(answers.qemu_uri) as host:
            hostile = watched(sample=sampled(host))
    lines = host_lines(hostile, 0.0, LIMIT)
    assert hostile.state(0.0, LIMIT) is State.PARTIAL
    assert "memory_parameters.full_scans: the server sent nan, which is not a finite" in lines[1][0]
    assert ("Memory " + ", ".join(["5K \\x1b[2J"] * 4), "") in lines
    assert ("KSM pages to scan 100, sleep unknown, full scans unknown, pages shared unknown, "
            "merge across nodes unknown, \\x1b[2jmode fast", "") in lines


def test_a_row_has_a_few_cells_and_sizes_of_pages():
    host = watched(figures={"cells": (KIB,) * 1024, "huge": ((KIB, 1),) * 64})
    host.good = host.sample = Sample("host", None, None, None, 0.0, 0.001)
    row = host_row(host, 0.0, LIMIT)
    assert row.cells["cells"] == " ".join(["1K"] * 8)
    assert row.cells["huge"] == " ".join(["1x1K"] * 8)


def test_an_error_without_end_is_cut():
    host = watched(sample=failed("x" * 10**6))
    assert len(host_row(host, 0.0, LIMIT).message) < 1100
    assert max(len(line) for line, _ in host_lines(host, 0.0, LIMIT)) < 1100


def test_a_close_look_at_a_real_host(daemon, qemu):
    with Watch(hosts_of({"host": daemon.qemu_uri}), 60.0).closer("host") as watch:
        def has_rates():
            watch.take()
            rows = cpu_rows(watch.hosts["host"])
            return rows and any(row.cells["busy"] != "-" for row in rows) and rows

        rows = wait_until(has_rates, "the shares of the CPUs")
        host = watch.hosts["host"]
        assert [int(row.cells["cpu"]) for row in rows] == list(qemu.cpu_map())
        assert any(row.cells["graph"].strip() for row in rows)
        assert cell_rows(host)[0].cells.keys() >= {"cell", "free", "total", "pages4"}
        text = "\n".join(line for line, _ in host_lines(host, host.good_at, LIMIT))
        assert "host  ok, read 0 s ago" in text
        assert f"{qemu.node_info().cpus} CPUs" in text
        assert "KSM pages to scan" in text
        assert " buffers" in text


def test_a_watch_has_every_host_and_its_last_sample(daemon):
    three = Host(name="three", uri=TEST, timeout=1.0)
    with Watch([*hosts_of({"one": TEST, "two": daemon.test_uri}), three], 0.1) as watch:
        def all_fresh():
            watch.take()
            return all(host.good for host in watch.hosts.values())

        wait_until(all_fresh, "all hosts")
        assert list(watch.hosts) == ["one", "two", "three"]
        assert watch.hosts["two"].good.snapshot.uri == daemon.test_uri
    assert watch.closer("three").poller.hosts == {"three": three}


def test_a_close_look_is_as_patient_as_the_list(proxy):
    get_node_info, over = 6, threading.Event()

    def keep(procedure, body):
        if procedure == get_node_info:
            over.wait(60)
        return body

    proxy.change_reply = keep
    try:
        with Watch(hosts_of({"host": proxy.qemu_uri}), 50.0).closer("host") as watch:
            # It has missed its turn a second later.
            wait_until(lambda: watch.poller.overruns["host"], "a turn to be left out")
            over.set()

            def sampled():
                watch.take()
                return watch.hosts["host"].sample

            assert wait_until(sampled, "a sample").error is None
    finally:
        over.set()

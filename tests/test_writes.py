"""What changes the host, on the host: huge pages and KSM, put back as they were."""

import contextlib
from pathlib import Path

import pytest

import pyvirhost
from pyvirhost import constants

KSM = Path("/sys/kernel/mm/ksm")
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
SETTINGS = {"shm_pages_to_scan": "pages_to_scan", "shm_sleep_millisecs": "sleep_millisecs",
            "shm_merge_across_nodes": "merge_across_nodes"}


@contextlib.contextmanager
def put_back(*paths):
    before = {path: path.read_text() for path in paths}
    try:
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.fixture
def host(root_daemon):
    with pyvirhost.open(root_daemon.qemu_uri) as connection:
        yield connection


def test_ksm_parameters_are_set_and_restored(host):
    before = host.memory_parameters()
    assert before.types["shm_pages_to_scan"] == "uint"
    assert before.types["shm_full_scans"] == "ullong"
    with put_back(KSM / "pages_to_scan", KSM / "sleep_millisecs"):
        assert host.set_memory_parameters(
            {"shm_pages_to_scan": before["shm_pages_to_scan"] + 23,
             "shm_sleep_millisecs": 4_000_000_000}) is None
        assert int((KSM / "pages_to_scan").read_text()) == before["shm_pages_to_scan"] + 23
        assert int((KSM / "sleep_millisecs").read_text()) == 4_000_000_000
        assert host.memory_parameters()["shm_sleep_millisecs"] == 4_000_000_000
        # What was read is written back as it is, its counters left out.
        host.set_memory_parameters(before)
        for name, file in SETTINGS.items():
            assert int((KSM / file).read_text()) == before[name]
    for name, file in SETTINGS.items():
        assert host.memory_parameters()[name] == int((KSM / file).read_text())


def test_memory_parameters_are_the_kernels(host):
    for name, value in host.memory_parameters().items():
        assert value == int((KSM / name.removeprefix("shm_")).read_text())


def test_one_parameter_that_the_kernel_refuses(host):
    with put_back(KSM / "pages_to_scan"), pytest.raises(pyvirhost.LibvirtError):
        host.set_memory_parameters({"shm_merge_across_nodes": 7})


def test_huge_pages_are_reserved_and_given_back(host):
    with put_back(POOL):
        start = int(POOL.read_text())
        assert host.alloc_pages({2048: 2}) == 1
        assert int(POOL.read_text()) == start + 2
        assert host.alloc_pages(
            {2048: 1}, 0, 1, pyvirhost.AllocPagesFlags.ADD) == 1
        assert int(POOL.read_text()) == start + 3
        free = host.free_pages([2048])[0, 2048]
        assert free == int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
                           .read_text())
        assert free >= 3
        assert host.alloc_pages(
            {2048: start}, 0, 1, constants.VIR_NODE_ALLOC_PAGES_SET) == 1
        assert int(POOL.read_text()) == start


def test_pages_of_a_size_that_the_host_lacks(host):
    with put_back(POOL):
        before = POOL.read_text()
        with pytest.raises(pyvirhost.LibvirtError):
            host.alloc_pages({12345: 1})
        with pytest.raises(pyvirhost.InvalidArgumentError):
            host.alloc_pages({2048: 1}, 0, 0)
        with pytest.raises(pyvirhost.LibvirtError):
            host.alloc_pages({2048: 1}, 999)
        assert POOL.read_text() == before


def test_the_firmware_of_the_host(host):
    # Root may read the firmware's tables, where there are any.
    try:
        assert host.sysinfo().startswith("<sysinfo type='smbios'>")
    except pyvirhost.NotSupportedError:
        assert not Path("/sys/firmware/dmi/tables/DMI").exists()

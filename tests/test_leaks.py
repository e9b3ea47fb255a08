"""Every call over and over, in success and in error: memory and file descriptors stay."""

import contextlib
import ctypes
import gc
import os
import pickle
import struct
import sys

import pytest
from glibc import bytes_in_use, libc
from proxy import Proxy
from test_connection import CALLS, DANGEROUS, PAIRED

import pyvirhost

ERRORS = {
    "baseline_cpu": (["junk"],),
    "baseline_hypervisor_cpu": (["junk"],),
    "alloc_pages": ({2048: 0}, 0, 0),
    "cells_free_memory": (999,),
    "compare_cpu": ("junk",),
    "compare_hypervisor_cpu": ("junk",),
    "cpu_map": (1,),
    "cpu_model_names": ("no-such-arch",),
    "cpu_stats": (999,),
    "free_pages": ([12345],),
    "memory_parameters": (1,),
    "memory_stats": (999,),
    "set_memory_parameters": ({"shm_pages_to_scan": 1}, 1),
    "sysinfo": (1,),
}


def in_use():
    """What is in use now: bytes of C's, blocks of Python's, file descriptors."""
    gc.collect()
    return bytes_in_use(), sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))


def growth(call, times):
    """How much more is in use after each of `times` calls, once things are warm.

    The least of three rounds: the process has other reasons to grow, but what leaks grows in
    every one.
    """
    for _ in range(times):
        call()
    rounds = []
    for _ in range(3):
        before = in_use()
        for _ in range(times):
            call()
        rounds.append([(now - then) / times for now, then in zip(in_use(), before, strict=True)])
    return [min(kind) for kind in zip(*rounds, strict=True)]


def assert_none(growth):
    memory, blocks, descriptors = growth
    # The smallest block of malloc is 24 bytes.
    assert memory < 12
    assert blocks < 0.5
    assert descriptors <= 0


@pytest.mark.parametrize("driver", ["test", "qemu"])
@pytest.mark.parametrize("name", sorted({*CALLS} - PAIRED - DANGEROUS))
def test_no_call_leaks(daemon, name, driver):
    uri = daemon.qemu_uri if driver == "qemu" else "test:///default"
    with pyvirhost.open(uri) as connection:
        def call():
            for arguments in (CALLS[name], ERRORS.get(name, CALLS[name])):
                with contextlib.suppress(pyvirhost.LibvirtError):
                    result = getattr(connection, name)(*arguments)
                    if isinstance(result, pyvirhost.Connection):
                        result.close()

        slow = name in ("capabilities", "baseline_hypervisor_cpu", "compare_hypervisor_cpu")
        assert_none(growth(call, 20 if slow else 200))


def test_results_leak_nothing(connection):
    results = [connection.node_info(), connection.cpu_map(), connection.cpu_stats(),
               connection.per_cpu_stats(), connection.cells_free_memory(),
               connection.free_pages([4, 2048])]

    def call():
        for result in results:
            pickle.loads(pickle.dumps(result))
            repr(result)
            result.to_dict()
            if not isinstance(result, pyvirhost.NodeInfo):
                with memoryview(result) as view:
                    view.tobytes()
                with pytest.raises(TypeError, match="read-write"):
                    struct.pack_into("B", result, 0, 1)

    assert_none(growth(call, 200))


@pytest.mark.parametrize("uri", ["test:///default", "test_uri", "tcp_uri", "nonsense", "refused"])
def test_opening_and_closing_leaks_nothing(daemon, uri):
    uri = getattr(daemon, uri, uri)
    if uri == "refused":
        uri = "test+unix:///default?socket=/no/such/socket"

    def call():
        with contextlib.suppress(pyvirhost.LibvirtError), pyvirhost.open(uri) as connection:
            connection.cpu_stats()
            with connection.ref() as second:
                second.node_info()

    assert_none(growth(call, 50))


def test_a_leak_would_be_seen(connection):
    kept = []
    libc.strdup.restype = ctypes.c_void_p
    for leak, kind in (
        (lambda: libc.strdup(b"text"), 0),
        (lambda: kept.append(connection.node_info()), 1),
        (lambda: kept.append(os.open("/dev/null", os.O_RDONLY)), 2),
    ):
        grown = growth(leak, 50)
        assert grown[kind] >= (16, 0.9, 1)[kind]
        with pytest.raises(AssertionError):
            assert_none(grown)
    for file in kept:
        if isinstance(file, int):
            os.close(file)


def test_a_refusal_that_is_repeated_is_freed(daemon):
    # Each time the host is asked anew which page sizes it has, and refuses them once more.
    get_capabilities = 7

    def change(procedure, body):
        return body.replace(b"size='4'", b"size='5'") if procedure == get_capabilities else body

    with Proxy(daemon) as proxy, pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = change
        assert "free_pages" in connection.snapshot(["free_pages"]).errors
        # The proxy's list of calls would be what grows.
        bytes_each, blocks_each, files_each = growth(
            lambda: (connection.snapshot(["free_pages"]), proxy.clear()), 100)
    assert bytes_each < 64
    assert blocks_each < 1
    assert files_each == 0

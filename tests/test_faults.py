"""What a connection survives, in numbers large enough to meet what is rare."""

import functools
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from daemon import Daemon, wait_until
from test_leaks import in_use

import pyvirhost


def together(*functions):
    """Run each function in a thread of its own, all from the same moment on."""
    start = threading.Barrier(len(functions))
    failures = []

    def run(function):
        start.wait()
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("driver", ["in this process", "unix", "tcp"])
def test_sixteen_threads_call_while_another_closes_500_times(daemon, driver):
    uri = {"in this process": "test:///default", "unix": daemon.test_uri,
           "tcp": daemon.tcp_uri}[driver]
    outcomes = set()
    called = threading.Semaphore(0)

    def close(connection, turn):
        for _ in range(turn % 50):
            assert called.acquire(timeout=60)
        connection.close()

    def call(connection, turn):
        names = itertools.cycle(("node_info", "cpu_stats", "free_memory", "cpu_map", "hostname"))
        for _ in range(turn % 5):
            next(names)
        try:
            while True:
                outcomes.add(type(getattr(connection, next(names))()).__name__)
                called.release()
        except pyvirhost.ConnectionClosedError:
            outcomes.add("closed")

    counts = []
    for turn in range(500):
        connection = pyvirhost.open(uri)
        called = threading.Semaphore(0)
        together(*(functools.partial(call, connection, turn),) * 16,
                 functools.partial(close, connection, turn))
        if turn in (100, 499):
            del connection
            gc.collect()
            counts.append((descriptors(), *in_use()))
    assert outcomes == {"NodeInfo", "CPUStats", "int", "CPUMap", "str", "closed"}
    (files, memory, blocks, _), (files_now, memory_now, blocks_now, _) = counts
    assert files_now <= files
    # 400 connections of about 10 kB each would be seen.
    assert memory_now - memory < 400_000
    assert blocks_now - blocks < 4000


@pytest.mark.parametrize("driver", ["in this process", "unix"])
def test_handles_are_closed_in_every_order_from_several_threads(daemon, driver):
    uri = daemon.test_uri if driver == "unix" else "test:///default"
    before = descriptors()
    for order in itertools.permutations(range(4)):
        first = pyvirhost.open(uri)
        handles = [first, first.ref()]
        handles += [handles[1].ref(), first.ref()]
        for position, handle in enumerate(order):
            handles[handle].close()
            for other in order[position + 1:]:
                assert handles[other].node_info().cpus == 16
    for _ in range(50):
        first = pyvirhost.open(uri)
        handles = [first, *(first.ref() for _ in range(7))]
        together(*(handle.close for handle in handles))
        assert all(handle.closed for handle in handles)
    wait_until(lambda: descriptors() <= before, "the connections to close")


def test_a_daemon_restarts_under_50_connections():
    with Daemon() as daemon:
        before = descriptors()
        connections = [pyvirhost.open(daemon.test_uri, keepalive=(5, 3)) for _ in range(50)]
        lost = [threading.Event() for _ in connections]
        for connection, event in zip(connections, lost, strict=True):
            connection.register_close_callback(lambda *_, event=event: event.set())
        daemon.process.kill()
        daemon.process.wait(10)
        daemon.start()
        assert all(event.wait(20) for event in lost)
        for connection in connections:
            with pytest.raises(pyvirhost.ConnectionLostError):
                connection.node_info()
            connection.close()
        again = [pyvirhost.open(daemon.test_uri) for _ in range(50)]
        assert {connection.node_info().cpus for connection in again} == {16}
        for connection in again:
            connection.close()
        # Two of them are the loop's own, where it had not run before.
        wait_until(lambda: descriptors() <= before + 2, "the connections to close")


@pytest.mark.parametrize("loop", [False, True], ids=["without loop", "with loop"])
def test_2000_openings_leave_nothing(daemon, loop):
    def cycle(times):
        for _ in range(times):
            with pyvirhost.open(daemon.test_uri, keepalive=(5, 3) if loop else None) as connection:
                connection.cpu_stats()
                if loop:
                    connection.register_close_callback(lambda *_: None)

    if not loop:
        pyvirhost.EventLoop().stop()
    cycle(100)
    files, (memory, blocks, _) = descriptors(), in_use()
    cycle(2000)
    wait_until(lambda: descriptors() <= files, "the descriptors to close")
    memory_now, blocks_now, _ = in_use()
    assert memory_now - memory < 2000 * 12
    assert blocks_now - blocks < 1000


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_connections_in_reference_cycles_are_collected_from_any_thread(daemon):
    class Node:
        pass

    def make():
        for _ in range(40):
            node = Node()
            node.itself = node  # type: ignore[attr-defined]
            node.connection = pyvirhost.open(daemon.test_uri)  # type: ignore[attr-defined]
            node.connection.register_close_callback(lambda *_, node=node: None)  # type: ignore[attr-defined]
            node.connection.node_info()  # type: ignore[attr-defined]
            if len(threading.enumerate()) % 2:
                node.connection.close()  # type: ignore[attr-defined]

    def collect():
        for _ in range(40):
            gc.collect()

    before = descriptors()
    together(make, make, make, collect)
    gc.collect()
    wait_until(lambda: descriptors() <= before, "the connections to close")


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments], capture_output=True,
        text=True, timeout=80, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_callbacks_come_while_the_interpreter_ends():
    # The daemon dies with the loop running and every connection registered, at a moment that is
    # another one each time.
    for delay in range(8):
        with Daemon() as daemon:
            assert run("""
                import atexit, os, signal, sys, threading
                import pyvirhost

                uri, pid, delay = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
                connections = [pyvirhost.open(uri, keepalive=(1, 1)) for _ in range(10)]
                for connection in connections:
                    connection.register_close_callback(
                        lambda connection, reason: connection.is_alive())
                end = lambda: os.kill(pid, signal.SIGKILL)
                if delay < 4:
                    atexit.register(end)
                else:
                    end()
                    for _ in range(10 ** (delay - 3)):
                        pass
                print("end")
            """, daemon.test_uri, str(daemon.process.pid), str(delay)) == "end\n"

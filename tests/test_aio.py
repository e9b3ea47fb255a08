"""Awaitable connections: the event loop goes on, whatever the servers and the tasks do."""

import asyncio
import gc
import inspect
import os
import signal
import threading

import pytest
from daemon import wait_until

import pyvirhost
import pyvirhost.aio


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "pyvirhost-aio"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    wait_until(lambda: gc.collect() >= 0 and not threads(), "the threads to end")


def test_every_call_can_be_awaited():
    async def main():
        async with pyvirhost.aio.open("test:///default") as host:
            assert (await host.node_info()).cpus == 16
            assert (await host.cpu_stats(cpu=0)).user == 9797400000
            assert list(await host.cells_free_memory(1)) == [4194304]
            assert repr(host) == "<aioConnection 'test:///default'>"
            with pytest.raises(pyvirhost.NotSupportedError):
                await host.memory_stats()
            with pytest.raises(TypeError):
                await host.compare_cpu(None)
            with pytest.raises(TypeError):
                await host.node_info(1)
        assert host.closed
        with pytest.raises(pyvirhost.ConnectionClosedError):
            await host.node_info()

    asyncio.run(main())


def test_it_has_all_methods():
    ours = {name for name in dir(pyvirhost.Connection) if not name.startswith("_")}
    theirs = {name for name in dir(pyvirhost.aio.Connection) if not name.startswith("_")}
    assert theirs == ours - {"ref"}
    for name in theirs - {"closed"}:
        method = getattr(pyvirhost.aio.Connection, name)
        assert inspect.iscoroutinefunction(method)
        assert method.__doc__
    assert str(inspect.signature(pyvirhost.aio.Connection.cpu_stats)) == str(
        inspect.signature(pyvirhost.Connection.cpu_stats))


def test_opening_can_be_awaited_too():
    async def main():
        host = await pyvirhost.aio.open("test:///default", readonly=True)
        assert await host.hostname()
        await host.close()
        await host.close()
        with pytest.raises(pyvirhost.InvalidArgumentError):
            await pyvirhost.aio.open("nonsense")
        with pytest.raises(pyvirhost.InvalidArgumentError):
            async with pyvirhost.aio.open("nonsense"):
                pass

    asyncio.run(main())


def test_many_hosts_at_once(daemon):
    async def read(uri):
        async with pyvirhost.aio.open(uri) as host:
            return [(await host.node_info()).cpus for _ in range(10)]

    async def main():
        return await asyncio.gather(*(read(daemon.test_uri) for _ in range(15)))

    assert asyncio.run(main()) == [[16] * 10] * 15


def test_the_loop_goes_on_while_a_server_hangs(own_daemon):
    async def main():
        async with pyvirhost.aio.open(own_daemon.test_uri) as host:
            own_daemon.process.send_signal(signal.SIGSTOP)
            call = asyncio.create_task(host.node_info())
            for _ in range(100):
                await asyncio.sleep(0)
            assert not call.done()
            own_daemon.process.send_signal(signal.SIGCONT)
            assert (await call).cpus == 16

    asyncio.run(main())


def test_a_cancelled_await_does_not_lose_the_connection(own_daemon):
    async def main():
        async with pyvirhost.aio.open(own_daemon.test_uri) as host:
            own_daemon.process.send_signal(signal.SIGSTOP)
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(host.node_info(), 0.02)
            own_daemon.process.send_signal(signal.SIGCONT)
            assert (await host.node_info()).cpus == 16

    asyncio.run(main())


def test_a_call_that_was_cancelled_before_its_turn_is_not_made(proxy):
    async def main():
        async with pyvirhost.aio.open(proxy.test_uri) as host:
            await host.node_info()
            proxy.clear()
            proxy.daemon.process.send_signal(signal.SIGSTOP)
            first = asyncio.create_task(host.node_info())
            await asyncio.sleep(0)
            others = [asyncio.create_task(host.hostname()) for _ in range(5)]
            await asyncio.sleep(0)
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            proxy.daemon.process.send_signal(signal.SIGCONT)
            assert (await first).cpus == 16
            assert (await host.node_info()).cpus == 16
            assert len(proxy.calls) == 2

    asyncio.run(main())


def test_an_opening_that_is_cancelled_closes_what_it_gets(own_daemon):
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        own_daemon.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pyvirhost.aio.open(own_daemon.test_uri), 0.05)
        own_daemon.process.send_signal(signal.SIGCONT)

    asyncio.run(main())
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the connection to close")


def test_closing_under_a_call_that_hangs(own_daemon):
    async def main():
        host = await pyvirhost.aio.open(own_daemon.test_uri)
        own_daemon.process.send_signal(signal.SIGSTOP)
        call = asyncio.create_task(host.node_info())
        await asyncio.sleep(0.01)
        await asyncio.wait_for(host.close(), 10)
        assert host.closed
        assert not call.done()
        own_daemon.process.send_signal(signal.SIGCONT)
        assert (await call).cpus == 16

    asyncio.run(main())


def test_a_loop_that_ends_first(own_daemon):
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        host = await pyvirhost.aio.open(own_daemon.test_uri)
        own_daemon.process.send_signal(signal.SIGSTOP)
        asyncio.create_task(host.node_info())  # noqa: RUF006
        asyncio.create_task(pyvirhost.aio.open(own_daemon.test_uri)._open())  # noqa: RUF006
        await asyncio.sleep(0.01)
        return host

    host = asyncio.run(main())
    own_daemon.process.send_signal(signal.SIGCONT)
    asyncio.run(host.close())
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "both connections to close")


def test_a_close_callback_runs_in_the_loop(own_daemon):
    async def main():
        lost = asyncio.get_running_loop().create_future()
        async with pyvirhost.aio.open(own_daemon.test_uri, keepalive=(1, 2)) as host:
            with pytest.raises(TypeError):
                await host.register_close_callback(lambda: None)
            await host.register_close_callback(
                lambda connection, reason: lost.set_result(
                    (connection, reason, threading.current_thread())))
            own_daemon.process.kill()
            connection, reason, thread = await asyncio.wait_for(lost, 20)
            assert connection is host
            assert reason is pyvirhost.CloseReason.VIR_CONNECT_CLOSE_REASON_EOF
            assert thread is threading.main_thread()

    asyncio.run(main())


def test_a_dropped_connection_is_closed_with_a_warning(daemon):
    async def main():
        await pyvirhost.aio.open(daemon.test_uri)

    def drop():
        asyncio.run(main())
        gc.collect()
        wait_until(lambda: not threads(), "the thread to end")

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()

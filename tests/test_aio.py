"""Awaitable connections: the event loop goes on, whatever the servers and the tasks do."""

import ast
import asyncio
import contextlib
import gc
import inspect
import os
import signal
import threading
from pathlib import Path

import pytest
from daemon import stopped, threads_named, wait_until

import pyvirhost
import pyvirhost.aio


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    wait_until(lambda: gc.collect() >= 0 and not threads_named("pyvirhost-aio"),
               "the threads to end")


def test_every_call_can_be_awaited():
    async def main():
        async with pyvirhost.aio.open("test:///default") as host:
            assert (await host.node_info()).cpus == 16
            assert (await host.cpu_stats(cpu=0)).user == 9797400000
            assert await host.cells_free_memory(1) == {1: 4194304}
            assert repr(host) == "<aioConnection 'test:///default'>"
            with pytest.raises(pyvirhost.NotSupportedError):
                await host.memory_stats()
            with pytest.raises(TypeError):
                await host.compare_cpu(None)
            with pytest.raises(TypeError):
                await host.node_info(1)  # type: ignore[call-arg]
        assert host.closed
        with pytest.raises(pyvirhost.ConnectionClosedError):
            await host.node_info()

    asyncio.run(main())


def test_a_connection_closes_itself_at_the_end_of_its_block():
    async def main():
        async with await pyvirhost.aio.open("test:///default") as host:
            assert (await host.node_info()).cpus == 16
        assert host.closed
        with pytest.raises(pyvirhost.ConnectionClosedError):
            async with host:
                raise AssertionError
        with pytest.raises(ZeroDivisionError):
            async with await pyvirhost.aio.open("test:///default") as host:
                1 / 0  # noqa: B018
        assert host.closed

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


def test_calls_that_wait_behind_one_that_hangs_end_with_close(proxy):
    async def main():
        host = await pyvirhost.aio.open(proxy.test_uri)
        proxy.clear()
        with stopped(proxy.daemon):
            hung = asyncio.create_task(host.node_info())
            waiting = [asyncio.create_task(host.hostname()) for _ in range(5)]
            async with asyncio.timeout(20):
                while not proxy.calls:
                    await asyncio.sleep(0)
            await asyncio.wait_for(host.close(), 10)
            async with asyncio.timeout(10):
                results = await asyncio.gather(*waiting, return_exceptions=True)
                assert {type(result) for result in results} == {pyvirhost.ConnectionClosedError}
                with pytest.raises(pyvirhost.ConnectionClosedError):
                    await host.hostname()
            assert not hung.done()
        assert (await hung).cpus == 16

    asyncio.run(main())


def test_the_thread_ends_with_close_and_not_with_the_last_reference():
    async def main():
        async with pyvirhost.aio.open("test:///default") as host:
            wait_until(lambda: threads_named("pyvirhost-aio") == 1, "the thread to have its name")
        wait_until(lambda: not threads_named("pyvirhost-aio"), "the thread to end")
        for call in (host.node_info, host.unregister_close_callback,
                     lambda: host.register_close_callback(lambda *_: None)):
            with pytest.raises(pyvirhost.ConnectionClosedError, match="the connection is closed"):
                await call()
        await host.close()

    asyncio.run(main())


def test_a_close_that_is_cancelled_at_once_closes(own_daemon):
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        for turn in range(20):
            host = await pyvirhost.aio.open(own_daemon.test_uri)
            close = asyncio.create_task(host.close())
            for _ in range(turn % 3):
                await asyncio.sleep(0)
            close.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await close
            if turn % 3 == 0:  # it had not begun
                await host.close()
            with pytest.raises(pyvirhost.ConnectionClosedError):
                await host.node_info()

    asyncio.run(main())
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the connections to close")


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit,
                                   asyncio.CancelledError, ZeroDivisionError])
def test_whatever_auth_raises_ends_the_await(tmp_path, error):
    path = tmp_path / "node.xml"
    path.write_text("<node><auth><user>q</user></auth></node>")

    def answer(_):
        raise error("mine")

    async def main():
        async with asyncio.timeout(20):
            await pyvirhost.aio.open(f"test://{path}", auth=answer)

    expected = RuntimeError if error is StopIteration else error
    with pytest.raises(expected, match="mine") as caught:
        asyncio.run(main())
    if error is StopIteration:
        assert type(caught.value.__cause__) is StopIteration


def test_whatever_an_argument_raises_ends_the_await():
    class Stops:
        def __index__(self):
            raise StopIteration("mine")

    async def main():
        async with pyvirhost.aio.open("test:///default") as host, asyncio.timeout(20):
            with pytest.raises(RuntimeError, match="mine"):
                await host.cpu_map(Stops())
            assert (await host.node_info()).cpus == 16

    asyncio.run(main())


def test_it_takes_the_callables_that_a_connection_takes(daemon):
    async def main():
        async with pyvirhost.aio.open(daemon.test_uri) as host:
            await host.register_close_callback(getattr)
            await host.unregister_close_callback()
            with pytest.raises(TypeError, match=r"^callback must take 2 arguments"):
                await host.register_close_callback(lambda: None)  # type: ignore[misc]
            with pytest.raises(TypeError, match=r"^callback must be callable"):
                await host.register_close_callback(5)

    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(getattr)
    asyncio.run(main())


def test_a_loop_that_ends_first(own_daemon):
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        host = await pyvirhost.aio.open(own_daemon.test_uri)
        own_daemon.process.send_signal(signal.SIGSTOP)
        asyncio.create_task(host.node_info())  # noqa: RUF006
        asyncio.create_task(pyvirhost.aio.open(own_daemon.test_uri)._open())  # type: ignore[attr-defined]  # noqa: RUF006
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
                await host.register_close_callback(lambda: None)  # type: ignore[misc]
            await host.register_close_callback(
                lambda connection, reason: lost.set_result(
                    (connection, reason, threading.current_thread())))
            own_daemon.process.kill()
            connection, reason, thread = await asyncio.wait_for(lost, 20)
            assert connection is host
            assert reason is pyvirhost.CloseReason.EOF
            assert thread is threading.main_thread()

    asyncio.run(main())


def test_a_dropped_connection_is_closed_with_a_warning(daemon):
    async def main():
        await pyvirhost.aio.open(daemon.test_uri)

    def drop():
        asyncio.run(main())
        gc.collect()
        wait_until(lambda: not threads_named("pyvirhost-aio"), "the thread to end")

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()


# ---- the stubs ----

def stub(module):
    """The functions of a stub, and the methods of its Connection, by name."""
    body = ast.parse(Path(pyvirhost.__file__).with_name(f"{module}.pyi").read_text()).body
    connection, = (node for node in body
                   if isinstance(node, ast.ClassDef) and node.name == "Connection")
    return {node.name: node for node in body + connection.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_both_stubs_say_the_same():
    ours, theirs = stub("_connection"), stub("aio")
    names = {name for name in ours if not name.startswith("_")}
    names -= {"ref", "initialize", "check_callback", "check_open", "snapshot_arguments"}
    assert names == {name for name in theirs if not name.startswith("_")}
    for name in names:
        assert ast.unparse(ours[name].args) == ast.unparse(theirs[name].args)
        if name == "open":
            assert ast.unparse(theirs[name].returns) == "Opening"
        else:
            assert ast.unparse(ours[name].returns) == ast.unparse(theirs[name].returns)
            assert isinstance(theirs[name], ast.AsyncFunctionDef) == (name != "closed")

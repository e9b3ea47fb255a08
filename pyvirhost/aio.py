"""Connections for asyncio programs: every call is awaitable and never blocks the event loop.

>>> async with pyvirhost.aio.open("test:///default") as host:
...     print((await host.node_info()).cpus)
16

A connection's calls run one after another in a thread of its own. Cancelling an await gives up the
answer, not the connection: the call runs to its end in the thread, and the next one follows.
"""

import asyncio
import functools
import queue
import sys
import weakref
from collections.abc import Callable, Generator
from typing import Any, Self

import pyvirhost
from pyvirhost._connection import check_callback
from pyvirhost._events import start_thread

_Job = Callable[[], Any]
_Jobs = queue.SimpleQueue[Callable[[], None] | None]


def _work(jobs: _Jobs) -> None:
    """Do jobs until the next one is None."""
    while (job := jobs.get()) is not None:
        try:
            job()
        except BaseException:  # for want of memory, say; the next one may have some
            sys.excepthook(*sys.exc_info())
        del job  # or it would keep what it holds until the next one


class _Worker:
    """A thread that does jobs one after another."""

    def __init__(self) -> None:
        self.jobs: _Jobs = queue.SimpleQueue()
        start_thread("pyvirhost-aio", _work, self.jobs)

    def end(self) -> None:
        """End the thread after the jobs that it was given."""
        self.jobs.put(None)

    def take_over(self) -> None:
        """Do the jobs that the thread has not begun in this one."""
        while True:
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job()

    async def do(
        self,
        job: _Job,
        unwanted: Callable[[Any], None] | None = None,
        *,
        even_cancelled: bool = False,
    ) -> Any:
        """Do a job in the thread and return what it returns.

        Parameters
        ----------
        job : callable
        unwanted : callable, optional
            Called in a thread with a result that nobody waits for any more.
        even_cancelled : bool, default False
            Do the job even if the await was cancelled before it began.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            if future.cancelled() and not even_cancelled:
                return
            result: Any = None
            error: BaseException | None = None
            try:
                result = job()
            except BaseException as raised:
                error = raised
            try:
                if future.cancelled():  # and nobody may be left to deliver to
                    discard(result)
                else:
                    loop.call_soon_threadsafe(deliver, result, error)
            except RuntimeError:  # the event loop is closed
                discard(result)
            finally:
                del error  # whose traceback holds this frame, and with it the connection

        def deliver(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                if unwanted is not None and result is not None:
                    start_thread("pyvirhost-aio", discard, result)
            elif error is None:
                future.set_result(result)
            elif isinstance(error, StopIteration):  # which no future takes
                refused = RuntimeError(f"{error!r} can't be raised by an await")
                refused.__cause__ = error
                future.set_exception(refused)
            else:
                future.set_exception(error)

        def discard(result: Any) -> None:
            if unwanted is not None and result is not None:
                unwanted(result)

        self.jobs.put(work)
        return await future


class Opening:
    """A connection being opened: ``await`` it, or enter it with ``async with``."""

    def __init__(self, uri: str | None, options: dict[str, Any]) -> None:
        self._job = functools.partial(pyvirhost.open, uri, **options)
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, None, "Connection"]:
        return self._open().__await__()

    async def _open(self) -> "Connection":
        worker = _Worker()
        try:
            connection = await worker.do(self._job, unwanted=pyvirhost.Connection.close)
            return Connection(connection, worker)
        except BaseException:
            worker.end()
            raise

    async def __aenter__(self) -> "Connection":
        self._connection = await self._open()
        return self._connection

    async def __aexit__(self, *exception: object) -> None:
        assert self._connection is not None
        await self._connection.close()


def open(uri: str | None = None, **options: Any) -> Opening:
    """Open a connection; the arguments are those of `pyvirhost.open`.

    Returns
    -------
    Opening
        ``await`` it, or enter it with ``async with``, to get a `Connection`.
    """
    return Opening(uri, options)


def _closed() -> pyvirhost.ConnectionClosedError:
    return pyvirhost.ConnectionClosedError(
        "the connection is closed", code=pyvirhost.ErrorCode.INVALID_CONN)


class Connection:
    """A connection with the methods of `pyvirhost.Connection`, to be awaited.

    It is an asynchronous context manager that closes itself.
    """

    def __init__(self, connection: pyvirhost.Connection, worker: _Worker) -> None:
        self._connection = connection
        self._worker = worker
        self._closing = False

    def __del__(self) -> None:
        self._worker.end()

    async def __aenter__(self) -> Self:
        if self._closing or self._connection.closed:
            raise _closed()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio{repr(self._connection)[1:]}"

    @property
    def closed(self) -> bool:
        """Whether this program closed the connection: bool."""
        return self._connection.closed

    async def close(self) -> None:
        """Close the connection, even while a call hangs; do nothing if it is closed.

        The call in flight runs to its end. Those queued behind it raise `ConnectionClosedError` at
        once, like new ones.
        """
        if self._closing:
            return
        closer = _Worker()
        self._closing = True
        try:
            await closer.do(self._connection.close, even_cancelled=True)
        finally:
            closer.end()
            if self._connection.closed:
                self._worker.take_over()
            self._worker.end()

    async def _do(self, job: _Job) -> Any:
        if self._closing or self._connection.closed:
            raise _closed()
        return await self._worker.do(job)

    async def register_close_callback(
        self, callback: Callable[["Connection", pyvirhost.CloseReason | int], object]
    ) -> None:
        """Register a function that the asyncio event loop calls once, when the connection is lost.

        Parameters
        ----------
        callback : callable
            Called with this connection and a `CloseReason`, or an int if the reason is unknown.
        """
        check_callback(callback, 2, "callback")
        loop = asyncio.get_running_loop()
        reference = weakref.ref(self)

        def notify(_: pyvirhost.Connection, reason: pyvirhost.CloseReason | int) -> None:
            connection = reference()
            if connection is not None and not loop.is_closed():
                loop.call_soon_threadsafe(callback, connection, reason)

        await self._do(lambda: self._connection.register_close_callback(notify))


def _awaitable(name: str) -> Callable[..., Any]:
    """Return the method that makes a connection's call of that name in its thread."""
    call = getattr(pyvirhost.Connection, name)

    @functools.wraps(call)
    async def method(self: Connection, *args: Any, **keywords: Any) -> Any:
        return await self._do(functools.partial(call, self._connection, *args, **keywords))

    method.__qualname__ = f"Connection.{name}"
    return method


for _name in dir(pyvirhost.Connection):
    if not _name.startswith("_") and not hasattr(Connection, _name) and _name != "ref":
        setattr(Connection, _name, _awaitable(_name))

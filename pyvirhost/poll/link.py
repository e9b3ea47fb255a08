"""One host's connection, opened when needed and reopened when it has died."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import pyvirhost
from pyvirhost.poll.host import Host

T = TypeVar("T")
Question = Callable[["pyvirhost.Connection"], T]


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A host's answer to a question, or why there is none.

    Attributes
    ----------
    host : Host
    result : object
        What the question returned; None if it raised.
    error : BaseException or None
        What the question, or opening the connection for it, raised. None if it returned.
    connected : bool
        Whether there was a connection to ask over; if not, `error` says why none could be opened.
    started_at : float
        When it was asked, in seconds since the epoch.
    duration : float
        Seconds until it answered or was given up.
    """

    host: Host
    result: T | None
    error: BaseException | None
    connected: bool
    started_at: float
    duration: float


class Link:
    """A host's connection, for one thread at a time.

    The first question opens it, and the next one after it has died reopens it. An error that leaves
    it alive leaves it open.

    Parameters
    ----------
    host : Host
    on_loss : callable, optional
        Called with the connection, in another thread, when it is lost.
    """

    __slots__ = ("_on_loss", "_opens", "connection", "host")

    def __init__(
        self, host: Host, on_loss: "Callable[[pyvirhost.Connection], object] | None" = None
    ) -> None:
        self.host = host
        self.connection: pyvirhost.Connection | None = None
        # Whoever asks enforces the timeout, for opening too.
        self._opens = host if host.timeout is None else replace(host, timeout=None)
        self._on_loss = on_loss

    def ask(self, question: Question[T]) -> Answer[T]:
        """Ask a question and return the answer. Whatever it raises is the answer's error.

        Raises
        ------
        KeyboardInterrupt, SystemExit
            The question raised it.
        """
        started_at, began = time.time(), time.monotonic()
        result: T | None = None
        error: BaseException | None = None
        connected = self.connection is not None
        try:
            if not connected:
                self.connection = self._open()
                connected = True
            # Not in a local variable: an error's traceback holds this frame.
            result = question(self.connection)  # type: ignore[arg-type]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            error = without_frames(raised)
            if self.has_died(error):
                self.close()
        return Answer(self.host, result, error, connected, started_at, time.monotonic() - began)

    def close(self) -> None:
        """Close the connection, if there is one: a round trip."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(pyvirhost.LibvirtError):
                connection.close()

    def has_died(self, error: BaseException) -> bool:
        """Return whether the connection has died, as `error` may show."""
        if self.connection is None:
            return False
        try:
            return isinstance(error, pyvirhost.ConnectionLostError) or (
                not self.connection.is_alive())
        except pyvirhost.LibvirtError:
            return True  # the question closed it

    def _open(self) -> "pyvirhost.Connection":
        connection = self._opens.open()
        if self._on_loss is not None:
            on_loss = self._on_loss
            try:
                connection.register_close_callback(lambda connection, _: on_loss(connection))
            except pyvirhost.NotSupportedError:
                pass
            except BaseException:
                connection.close()
                raise
        return connection


def without_frames(error: BaseException) -> BaseException:
    """Return an error that does not keep alive what the functions it came through held.

    Otherwise an answer that is kept would keep the connection. Errors other than libvirt's keep the
    lines that they came through, which say what happened.
    """
    error.__context__ = None
    if isinstance(error, pyvirhost.LibvirtError):
        return error.with_traceback(None)
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # ours
    traceback = error.__traceback__
    while traceback is not None:
        with suppress(RuntimeError):  # it still runs
            traceback.tb_frame.clear()
        traceback = traceback.tb_next
    return error

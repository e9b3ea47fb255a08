"""What one poll of a host gives, and the connection that it is read over."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import index
from typing import Any

import pyvirhost
from pyvirhost.auth import Authenticator


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll of a host gave: a snapshot, or the error in its place.

    Attributes
    ----------
    host : str
        The host's name.
    snapshot : HostSnapshot or None
        None where nothing could be read; a single field that could not is in its ``errors``.
    rates : HostRates or None
        How busy the host was since its sample before, over the same connection.
    error : BaseException or None
        Why there is no snapshot; None where there is one.
    started_at : float
        When the reading began, in seconds since the epoch. Nothing in the snapshot is older.
    duration : float
        Seconds that the reading took, or has taken so far where the host still does not answer.
    """

    host: str
    snapshot: "pyvirhost.HostSnapshot | None"
    rates: "pyvirhost.HostRates | None"
    error: BaseException | None
    started_at: float
    duration: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of dicts, with the error as a type and a message."""
        error = None if self.error is None else {
            "type": type(self.error).__name__, "message": str(self.error)}
        return {
            "host": self.host, "started_at": self.started_at, "duration": self.duration,
            "error": error,
            "snapshot": None if self.snapshot is None else self.snapshot.to_dict(),
            "rates": None if self.rates is None else self.rates.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """What is read, and how connections are opened; checked when it is made."""

    fields: tuple[str, ...] | None = None
    page_sizes: tuple[int, ...] | None = None
    keepalive: tuple[int, int] | None = None
    readonly: bool = True
    auth: Authenticator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.keepalive is not None:
            check_keepalive(self.keepalive)
        if self.auth is not None and not callable(self.auth):
            raise TypeError(f"auth must be callable, not {type(self.auth).__name__}")


def checked_settings(
    fields: Iterable[str] | None,
    page_sizes: Iterable[int] | None,
    keepalive: tuple[int, int] | None,
    readonly: bool,
    auth: Authenticator | None,
) -> Settings:
    """Return the settings, or raise what is wrong with them."""
    return Settings(
        None if fields is None else checked_fields(fields),
        None if page_sizes is None else checked_page_sizes(page_sizes),
        keepalive, bool(readonly), auth)


def checked_fields(fields: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a snapshot's fields as a tuple."""
    if isinstance(fields, str):
        raise TypeError("fields must be an iterable of str, not a str")
    names = tuple(fields)
    if not names:
        raise ValueError("fields must not be empty")
    for name in names:
        if name not in pyvirhost.ALL:
            raise ValueError(f"{name!r} is no field of a snapshot, which are "
                             + ", ".join(pyvirhost.ALL))
    return names


def checked_page_sizes(page_sizes: Iterable[int]) -> tuple[int, ...]:
    """Return page sizes in KiB as a tuple."""
    sizes = tuple(index(size) for size in page_sizes)
    if not sizes:
        raise ValueError("page_sizes must not be empty")
    for size in sizes:
        if not 0 < size < 2**32:
            raise ValueError(f"a page size must be more than 0 KiB and of 32 bits, not {size}")
    return sizes


def check_keepalive(keepalive: tuple[int, int]) -> None:
    """Raise what is wrong with an interval in seconds and a count."""
    if not isinstance(keepalive, tuple) or len(keepalive) != 2:
        raise TypeError("keepalive must be a tuple of an interval in seconds and a count")
    interval, count = map(index, keepalive)
    if not 1 <= interval < 2**31:
        raise ValueError(f"keepalive's interval must be at least 1 second, not {interval}")
    if not 0 <= count < 2**32:
        raise ValueError(f"keepalive's count must be at least 0, not {count}")


class Reader:
    """A host's connection, opened when it is needed, for one thread at a time."""

    def __init__(self, name: str, uri: str, settings: Settings) -> None:
        self.name = name
        self.uri = uri
        self.connection: pyvirhost.Connection | None = None
        self._settings = settings
        self._earlier: pyvirhost.HostSnapshot | None = None

    def read(self, on_loss: Callable[[], None] | None = None) -> Sample:
        """Read the host; all that fails is the sample's error, and makes the next one open anew.

        Parameters
        ----------
        on_loss : callable, optional
            Is called, in another thread, when a connection that is opened now is lost.
        """
        started_at, began = time.time(), time.monotonic()
        snapshot = rates = error = None
        try:
            connection = self.connection or self._open(on_loss)
            snapshot = read_snapshot(connection, self._settings)
            rates = snapshot.rates(self._earlier)
            self._earlier = snapshot
        except BaseException as raised:
            # Without the frames that it came through, and with them this connection.
            error = raised.with_traceback(None)
            error.__context__ = None
            self.close()
        return Sample(self.name, snapshot, rates, error, started_at, time.monotonic() - began)

    def close(self) -> None:
        """Close the connection where there is one: a round trip."""
        # Rates over a gap might be those over a reboot.
        self._earlier = None
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(pyvirhost.LibvirtError):
                connection.close()

    def _open(self, on_loss: Callable[[], None] | None) -> "pyvirhost.Connection":
        settings = self._settings
        self.connection = connection = pyvirhost.open(
            self.uri, readonly=settings.readonly, auth=settings.auth,
            keepalive=settings.keepalive)
        if on_loss is not None:
            with suppress(pyvirhost.NotSupportedError):
                connection.register_close_callback(lambda *_: on_loss())
        return connection


def read_snapshot(
    connection: "pyvirhost.Connection", settings: Settings
) -> "pyvirhost.HostSnapshot":
    """Return a snapshot, or raise why it has nothing in it or its connection was lost."""
    snapshot = connection.snapshot(settings.fields, page_sizes=settings.page_sizes)
    errors = snapshot.errors
    for error in errors.values():
        if isinstance(error, pyvirhost.ConnectionLostError) or len(errors) == len(snapshot.fields):
            raise error
    return snapshot

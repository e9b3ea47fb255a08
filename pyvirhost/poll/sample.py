"""What one poll of a host asks for, and what it returns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyvirhost
from pyvirhost._connection import snapshot_arguments
from pyvirhost.poll.link import Answer


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one poll of a host: a snapshot, or an error instead.

    Attributes
    ----------
    host : str
        The host's name.
    snapshot : HostSnapshot or None
        None if nothing could be read; single fields that could not are in its ``errors``.
    rates : HostRates or None
        How busy the host was since its previous sample, over the same connection.
    error : BaseException or None
        Why there is no snapshot; None if there is one.
    started_at : float
        When the reading began, in seconds since the epoch. Nothing in the snapshot is older.
    duration : float
        Seconds that the reading took, or has taken so far if the host still does not answer.
    """

    host: str
    snapshot: "pyvirhost.HostSnapshot | None"
    rates: "pyvirhost.HostRates | None"
    error: BaseException | None
    started_at: float
    duration: float

    def to_dict(self) -> dict[str, Any]:
        """Return the sample as a dict of dicts, with the error as a type and a message."""
        error = None if self.error is None else {
            "type": type(self.error).__name__, "message": str(self.error)}
        return {
            "host": self.host, "started_at": self.started_at, "duration": self.duration,
            "error": error,
            "snapshot": None if self.snapshot is None else self.snapshot.to_dict(),
            "rates": None if self.rates is None else self.rates.to_dict(),
        }


class Reading:
    """The question that a poll asks a host: for a snapshot. It can be pickled.

    Parameters
    ----------
    fields, page_sizes : optional
        As in `Connection.snapshot`.

    Raises
    ------
    TypeError, ValueError, OverflowError
        One of them is invalid.
    """

    def __init__(
        self, fields: Iterable[str] | None = None, page_sizes: Iterable[int] | None = None
    ) -> None:
        self.fields, self.page_sizes = snapshot_arguments(fields, page_sizes)

    def __call__(self, connection: "pyvirhost.Connection") -> "pyvirhost.HostSnapshot":
        """Return a snapshot, or raise if nothing could be read or the connection was lost."""
        snapshot = connection.snapshot(self.fields, page_sizes=self.page_sizes)
        errors = snapshot.errors
        for error in errors.values():
            if isinstance(error, pyvirhost.ConnectionLostError) or (
                    len(errors) == len(snapshot.fields)):
                raise error
        return snapshot


def sample_of(
    answer: Answer["pyvirhost.HostSnapshot"], rates: "pyvirhost.HostRates | None" = None
) -> Sample:
    """Return an answer to a `Reading` as a sample."""
    return Sample(answer.host.name, answer.result, rates, answer.error, answer.started_at,
                  answer.duration)

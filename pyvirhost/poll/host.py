"""Hosts, and how to open each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyvirhost
from pyvirhost._connection import check_open
from pyvirhost.auth import Authenticator

KEEPALIVE = (5, 3)
"""By default a server is considered lost after 20 seconds of silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host: its name, and how to open it.

    Parameters
    ----------
    name : str
        The name that its samples and answers carry.
    uri : str, optional
        By default libvirt chooses, as in `open`. Whoever writes a URI can run programs, with
        libvirt's ``command=`` and the like.
    readonly : bool, default True
        Whether the connection may only read.
    keepalive : (int, int), optional
        As in `open`; the default, (5, 3), frees calls that wait for a server that is gone. None
        turns it off.
    timeout : float, optional
        Seconds after which its answer is an `OperationTimeoutError`, including the time to open
        the connection. By default whoever asks decides.
    auth : PasswordAuth, DEFAULT_AUTH or callable, optional
        As in `open`. If several hosts share it, several threads may call it at once.

    Raises
    ------
    TypeError, ValueError, OverflowError
        A value is invalid; the message names it.

    Examples
    --------
    >>> host = pyvirhost.Host(name="here", uri="test:///default")
    >>> with host.open() as connection:
    ...     connection.node_info().cpus
    16
    """

    name: str
    uri: str | None = None
    readonly: bool = True
    keepalive: tuple[int, int] | None = KEEPALIVE
    timeout: float | None = None
    auth: Authenticator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a host's name must be a str, not {type(self.name).__name__}")
        if not isinstance(self.readonly, bool):
            raise TypeError(f"readonly must be a bool, not {type(self.readonly).__name__} "
                            f"(host {self.name!r})")
        try:
            check_open(self.uri, self.auth, self.keepalive, self.timeout)
        except (TypeError, ValueError, OverflowError) as error:
            raise type(error)(f"{error} (host {self.name!r})") from None

    def open(self) -> "pyvirhost.Connection":
        """Open a new connection to the host.

        Returns
        -------
        Connection

        Raises
        ------
        LibvirtError
            As in `pyvirhost.open`.

        Notes
        -----
        The same C calls and round trips as `pyvirhost.open`.
        """
        return pyvirhost.open(self.uri, readonly=self.readonly, auth=self.auth,
                              keepalive=self.keepalive, timeout=self.timeout)


Hosts = Mapping[str, str] | Iterable[str | Host]
"""Hosts as every function takes them: URIs by name, URIs that also serve as names, or `Host`."""


def hosts_by_name(hosts: Hosts) -> dict[str, Host]:
    """Return the hosts by name, in their order.

    Raises
    ------
    TypeError, ValueError, OverflowError
        A host is invalid, or two share a name.
    """
    if isinstance(hosts, str | bytes | Host):
        raise TypeError(
            f"hosts must be a mapping or an iterable of str or Host, not {type(hosts).__name__}")
    named = ([Host(name=name, uri=required(name, uri)) for name, uri in hosts.items()]
             if isinstance(hosts, Mapping) else [host_of(host) for host in hosts])
    result: dict[str, Host] = {}
    for host in named:
        if result.setdefault(host.name, host) is not host:
            raise ValueError(f"hosts has {host.name!r} twice")
    return result


def host_of(host: str | Host) -> Host:
    """Return a host, given as a `Host` or by its URI."""
    if isinstance(host, Host):
        return host
    if not isinstance(host, str):
        raise TypeError(f"a host must be a str or a Host, not {type(host).__name__}")
    return Host(name=host, uri=host)


def required(name: str, uri: str) -> str:
    """Return a URI, which must not be None here."""
    if not isinstance(uri, str):
        raise TypeError(f"a host's URI must be a str, not {type(uri).__name__} (host {name!r})")
    return uri

"""Which hosts to ask, and how to open each: URIs of a command line, and hosts files in TOML.

A hosts file has a table ``hosts`` of names, each with a URI or a table of these keys::

    [hosts]
    alpha = "qemu+tls://alpha.example.com/system"

    [hosts.beta]
    uri = "qemu+ssh://root@beta.example.com/system"
    readonly = true      # never open a connection that may change the host
    keepalive = "5:3"    # or "off", as after --keepalive
    timeout = 10         # seconds, as after --timeout

Whoever writes a URI runs code as this user: it can name programs for libvirt to start.
"""

import bisect
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyvirhost.cli.arguments import keepalive, seconds
from pyvirhost.poll.host import Host


class HostsError(ValueError):
    """What is wrong with a hosts file or with the hosts together, in one line."""


def hosts_of_uris(uris: Iterable[str], **override: Any) -> list[Host]:
    """Return hosts that are named by their URIs."""
    return [Host(**{"name": uri, "uri": uri, "readonly": False, **override}) for uri in uris]


def hosts_of_file(path: str, **override: Any) -> list[Host]:
    """Return the hosts of a hosts file in its order.

    Parameters
    ----------
    path : str
        The file, in the format that this module's description shows.
    **override
        What the command line says of each host, by the parameters of `Host`. It goes before what
        the file says, and that before the defaults.

    Raises
    ------
    HostsError
        The file can't be read or is wrong; the message has the line and the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise HostsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise HostsError(f"{path}, line {line}: not UTF-8") from None
    except ValueError as error:
        raise HostsError(f"cannot read {path!r}: {error}") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HostsError(f"{path}{place_of(str(error), text)}") from None

    def wrong(keys: tuple[str, ...], problem: str) -> HostsError:
        line = line_of(text, keys)
        return HostsError(f"{path}, line {line}: {'.'.join(keys)} {problem}")

    for key in found:
        if key != "hosts":
            raise wrong((key,), "is unknown, the only table is hosts")
    table = found.get("hosts")
    if table is None:
        raise HostsError(f"{path}: no table hosts")
    if not isinstance(table, dict):
        raise wrong(("hosts",), f"must be a table, not {type_name(table)}")
    if not table:
        raise wrong(("hosts",), "has no host")
    hosts = []
    for name, entry in table.items():
        values: dict[str, Any] = {}
        if not isinstance(entry, dict):
            values["uri"] = checked(uri_value, entry, ("hosts", name), wrong)
        else:
            for key, value in entry.items():
                if key not in KEYS:
                    raise wrong(("hosts", name, key), f"is unknown, not one of {', '.join(KEYS)}")
                values[key] = checked(KEYS[key], value, ("hosts", name, key), wrong)
            if "uri" not in values:
                raise wrong(("hosts", name), "has no uri")
        hosts.append(Host(**{"name": name, "readonly": False, **values, **override}))
    return hosts


def check_names(hosts: Iterable[Host]) -> None:
    """Raise `HostsError` where two hosts have one name."""
    names: set[str] = set()
    for host in hosts:
        if host.name in names:
            raise HostsError(f"two hosts are named {host.name}")
        names.add(host.name)


# ---- values -------------------------------------------------------------------------------------

def keepalive_value(value: object) -> tuple[int, int] | None:
    """Return the keepalive that a text such as ``"5:3"`` or ``"off"`` stands for."""
    try:
        return keepalive(str(value))
    except ArgumentTypeError:
        raise ValueError('must be INTERVAL:COUNT, as in "5:3", or "off"') from None


def seconds_value(value: object) -> float:
    """Return a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds")
    try:
        return seconds(str(value))
    except ArgumentTypeError as error:
        raise ValueError(str(error)) from None


def uri_value(value: object) -> str:
    """Return a URI, which libvirt understands or does not."""
    if not isinstance(value, str):
        raise ValueError(f"must be a URI or a table, not {type_name(value)}")
    if not value.strip() or "\0" in value:
        raise ValueError("must be a URI")
    return value


def readonly_value(value: object) -> bool:
    """Return whether to open read-only."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


KEYS: dict[str, Callable[[object], Any]] = {
    "uri": uri_value, "readonly": readonly_value, "keepalive": keepalive_value,
    "timeout": seconds_value,
}


def checked(check: Callable[[object], Any], value: object, keys: tuple[str, ...],
            wrong: Callable[[tuple[str, ...], str], HostsError]) -> Any:
    """Return what `check` makes of a value, or raise what is `wrong` with its keys."""
    try:
        return check(value)
    except ValueError as error:
        raise wrong(keys, str(error)) from None


def type_name(value: object) -> str:
    """Return TOML's word for a value's type."""
    words = {bool: "a boolean", int: "an integer", float: "a float", str: "a string",
             list: "an array", dict: "a table"}
    return words.get(type(value), "a time")


# ---- places in a file ---------------------------------------------------------------------------

def place_of(message: str, text: str) -> str:
    """Return where in a file tomllib found an error, with the key that stands there, and what."""
    problem, _, place = message.rpartition(" (at ")
    line = place.removeprefix("line ").partition(",")[0]
    if not line.isdecimal():  # "end of document"
        return f", line {text.count(chr(10)) + 1}: {message}"
    key = text.split("\n")[int(line) - 1].partition("=")[0].strip()
    return f", line {line}: {key}: {problem}" if key else f", line {line}: {problem}"


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line of a well-formed TOML file in which a key first appears."""
    lines = text.splitlines(keepends=True)

    def has_key(count: int) -> bool:
        # tomllib says nothing of lines, so ask what it finds in the first of them.
        while True:
            try:
                found = tomllib.loads("".join(lines[:count]))
                break
            except tomllib.TOMLDecodeError:
                count += 1  # in the middle of a value, and the file as a whole is right
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return False
            found = found[key]
        return True

    return bisect.bisect_left(range(len(lines)), True, lo=1, key=has_key)

r"""Which hosts to ask: URIs from the command line, and hosts files in TOML.

A hosts file has a table ``hosts`` that gives each name a URI, or a table with these keys::

    [hosts]
    alpha = "qemu+tls://alpha.example.com/system"

    [hosts.beta]
    uri = "qemu+ssh://root@beta.example.com/system"
    readonly = true      # never open a connection that may change the host
    keepalive = "5:3"    # or "off", as for --keepalive
    timeout = 10         # seconds, as for --timeout

Whoever writes a URI runs code as this user: it can name programs for libvirt to start.
"""

import errno
import os
import re
import select
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from operator import eq
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirhost.cli.arguments import keepalive_value, seconds_value

# tomllib and what needs libvirt are imported where they are used: most commands need no tomllib,
# and errors in a file are reported even if libvirt is missing.
if TYPE_CHECKING:
    from pyvirhost.poll.host import Host

Keys = tuple[str, ...]

MOST_BYTES = 16 << 20
"""The maximum size of a hosts file; 100,000 hosts take about 10 MiB."""

MOST_NESTED = 32
"""How deep arrays, tables and dotted keys may nest. tomllib takes quadratic time for the last."""

MOST_WORD = 500
"""How long a number or an unquoted key may be. tomllib can't say where an int is too long."""

FIRST_WRITER = 1.0
"""How many seconds to wait for a writer on a pipe that has none."""

MOST_SHOWN = 100


class HostsError(ValueError):
    """What is wrong with a hosts file or with the list of hosts, in one line."""


def hosts_of_uris(uris: Iterable[str], **override: Any) -> list["Host"]:
    """Return hosts named by their URIs.

    Parameters
    ----------
    uris : iterable of str
        One for each host.
    **override
        What the command line sets for every host, as parameters of `Host`.

    Raises
    ------
    HostsError
        A URI or a setting is invalid.
    """
    from pyvirhost import Host

    hosts = []
    for uri in uris:
        try:
            uri_value(uri)
            check_name(uri)
            hosts.append(Host(**{"name": uri, "uri": uri, "readonly": False, **override}))
        except (TypeError, ValueError, OverflowError) as error:
            raise HostsError(f"{shown((uri,))} {error}") from None
    return hosts


def hosts_of_file(path: str, **override: Any) -> list["Host"]:
    """Return the hosts of a hosts file, in its order.

    Parameters
    ----------
    path : str
        The file, in the format that this module's description shows, or a pipe that yields one.
    **override
        What the command line sets for every host, as parameters of `Host`. It overrides the file,
        which overrides the defaults: those of `Host`, except that `readonly` is False.

    Raises
    ------
    HostsError
        The file can't be read or is invalid; the message has the line and the key.
    """
    text = read(path)
    found = parsed(path, text)

    def wrong(keys: Keys, problem: object) -> HostsError:
        return HostsError(
            f"{shown_path(path)}, line {line_of(text, keys)}: {shown(keys)} {problem}")

    table = hosts_table(path, found, wrong)
    settings = [(name, host_settings(name, entry, wrong)) for name, entry in table.items()]
    from pyvirhost import Host

    hosts = []
    for name, values in settings:
        try:
            hosts.append(Host(**{"name": name, "readonly": False, **values, **override}))
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong(("hosts", name), f"is wrong: {error}") from None
    return hosts


def check_names(hosts: Iterable["Host"]) -> None:
    """Raise `HostsError` if two hosts share a name, however Unicode spells it."""
    names: set[str] = set()
    for host in hosts:
        name = normal(host.name)
        if name in names:
            raise HostsError(f"two hosts are named {shown((host.name,))}")
        names.add(name)


# ---- reading ------------------------------------------------------------------------------------

def read(path: str) -> str:
    """Return the text of a file or a pipe, or raise `HostsError`."""
    try:
        # Opening a pipe would wait for a writer.
        with open(path, "rb", opener=open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISFIFO(mode):
                # Now a read waits for the current writer, not for one that may come.
                wait_for_writer(file.fileno())
                os.set_blocking(file.fileno(), True)
            elif not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "Is neither a file nor a pipe")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise HostsError(f"cannot read {shown_path(path)}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise HostsError(f"cannot read {shown_path(path)}: {error}") from None
    if len(content) > MOST_BYTES:
        raise HostsError(f"cannot read {shown_path(path)}: more than {MOST_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise HostsError(f"{shown_path(path)}, line {line}: not UTF-8") from None


def open_at_once(path: str, flags: int) -> int:
    """Open a file, whatever it is, without waiting."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def wait_for_writer(pipe: int) -> None:
    """Wait briefly until a pipe has data, or its writers have closed it."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.poll(FIRST_WRITER * 1000)


def parsed(path: str, text: str) -> dict[str, Any]:
    """Return what a hosts file's text says, or raise `HostsError`."""
    import tomllib

    for statement in statements(text):
        if statement.problem:
            line = statement.line
            raise at(path, line, keys_at(text, line), statement.problem)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).rpartition(" (at ")
        number = place.removeprefix("line ").partition(",")[0]
    # At "end of document" something is not closed: say where it begins.
    line = int(number) if number.isdecimal() else max(begin for begin, _, _ in statements(text))
    raise at(path, line, keys_at(text, line), problem)


def at(path: str, line: int, keys: Keys, problem: str) -> HostsError:
    """Return the error for text that is not TOML."""
    what = f"{shown(keys)}: {cut(problem)}" if keys else cut(problem)
    return HostsError(f"{shown_path(path)}, line {line}: {what}")


# ---- what it says -------------------------------------------------------------------------------

Wrong = Callable[[Keys, object], HostsError]


def hosts_table(path: str, found: dict[str, Any], wrong: Wrong) -> dict[str, Any]:
    """Return the table of hosts, with valid names."""
    for key in found:
        if key != "hosts":
            raise wrong((key,), "is unknown; the only table is hosts")
    if "hosts" not in found:
        raise HostsError(f"{shown_path(path)}: no table hosts")
    table = found["hosts"]
    if not isinstance(table, dict):
        raise wrong(("hosts",), f"must be a table, not {type_name(table)}")
    if not table:
        raise wrong(("hosts",), "has no host")
    spellings: dict[str, str] = {}
    for name in table:
        try:
            check_name(name)
        except ValueError as error:
            raise wrong(("hosts", name), error) from None
        if spellings.setdefault(normal(name), name) != name:
            raise wrong(("hosts", name), "is defined twice, in two spellings that look the same")
    return table


def host_settings(name: str, entry: object, wrong: Wrong) -> dict[str, Any]:
    """Return a hosts file's settings for a host, as parameters of `Host`."""
    if not isinstance(entry, dict):
        return {"uri": checked(uri_value, entry, ("hosts", name), wrong)}
    for key in entry:
        if key not in KEYS:
            dotted = "; a name with dots needs quotes" if isinstance(entry[key], dict) else ""
            raise wrong(("hosts", name, key), f"is unknown, not one of {', '.join(KEYS)}{dotted}")
    if "uri" not in entry:
        raise wrong(("hosts", name), "has no uri")
    return {key: checked(KEYS[key], value, ("hosts", name, key), wrong)
            for key, value in entry.items()}


def check_name(name: str) -> None:
    """Raise `ValueError` if a host's name would not be visible as it is."""
    if not name or name.strip() != name:
        raise ValueError("must not be empty, or begin or end with a space")
    if not name.isprintable():
        raise ValueError("must not contain unprintable characters")


def normal(name: str) -> str:
    """Return a host's name with é always as one character.

    NFKC would also turn ² into 2, and casefolding A into a: those look different.
    """
    return unicodedata.normalize("NFC", name)


def uri_value(value: object) -> str:
    """Return a URI, whether libvirt understands it or not."""
    if not isinstance(value, str):
        raise ValueError(f"must be a URI or a table, not {type_name(value)}")
    if not value.strip():
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


def checked(check: Callable[[object], Any], value: object, keys: Keys, wrong: Wrong) -> Any:
    """Return what `check` makes of a value, or raise `wrong` with its keys."""
    try:
        return check(value)
    except ValueError as error:
        raise wrong(keys, error) from None


def type_name(value: object) -> str:
    """Return TOML's word for a value's type."""
    words = {bool: "a boolean", int: "an integer", float: "a float", str: "a string",
             list: "an array", dict: "a table"}
    return words.get(type(value), "a time")


# ---- places in a file ---------------------------------------------------------------------------

class Statement(NamedTuple):
    """The line where a header, or a key and its value, begins, and that header or key."""

    line: int
    key: str
    problem: str = ""


# Text that is no mark, then a mark: a string, a comment, a bracket and so on, or the end of the
# text. A mark always follows and nothing is tried twice, so the time is linear for any input. What
# repeats is atomic, not possessive, which CPython 3.11.2 gets wrong for groups.
MARK = re.compile(r'''
    ([^][{}"'\#=,.\n]*+)
    ( """(?> (?: [^"\\]++ | \\.? | "(?!"") )* ) (?: "{3,5} | \Z )
    | \'\'\'(?> (?: [^']++ | '(?!'') )* ) (?: '{3,5} | \Z )
    | "(?> (?: [^"\\\n]++ | \\[^\n]? )* ) "?
    | '[^'\n]*+ '?
    | \#[^\n]*+
    | \n (?> (?: [ \t]*+ \r? \n )* )
    | [][{}=,.] | \Z )''', re.VERBOSE | re.DOTALL)

BARE = re.compile(r"[A-Za-z0-9_-]+")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def statements(text: str) -> Iterator[Statement]:
    """Yield a text's statements, including comments, up to the first that is out of bounds.

    tomllib gives no line numbers for well-formed text, and no keys for the rest. This knows just
    enough TOML to find both, and whatever would take tomllib too long.
    """
    line, begin, depth, dots = 1, 0, 0, 0
    key: str | None = None
    for match in MARK.finditer(text):
        word, mark = match.groups()
        kind = mark[:1] or "\n"
        if len(word) > MOST_WORD and len(word.strip()) > MOST_WORD:
            yield Statement(line, key or "", "a number or an unquoted key has more than "
                            f"{MOST_WORD} characters")
            return
        if depth == 0 and key is None and kind in "=#\n":
            key = text[begin:match.start(2)].strip()
        if kind == ".":
            dots += 1
        elif kind not in "'\"":
            dots = 0
            if kind in "[{":
                depth += 1
            elif kind in "]}":
                depth = max(depth - 1, 0)
        if depth > MOST_NESTED or dots > MOST_NESTED:
            yield Statement(line, key or "", f"nested more than {MOST_NESTED} deep")
            return
        if kind == "\n" and (depth == 0 or not mark):
            yield Statement(line, key or "")
            if not mark:
                return  # else the end would match once more
            line += text.count("\n", begin, match.end())
            begin, key = match.end(), None


def places(text: str) -> Iterator[tuple[int, Keys]]:
    """Yield the line of each statement in a text, and its key, prefixed with its table's."""
    header: Keys = ()
    for line, key, _ in statements(text):
        keys = keys_of(key.strip("[]") if key.startswith("[") else key)
        if key.startswith("["):
            header = keys
        elif keys:
            keys = header + keys
        yield line, keys


def line_of(text: str, keys: Keys) -> int:
    """Return the line where a key first appears in a well-formed text, also inside a value."""
    best, most = 1, 0
    for line, found in places(text):
        same = sum(1 for _ in takewhile(bool, map(eq, found, keys)))
        if same > most:
            best, most = line, same
            if same == len(keys):
                break
    return best


def keys_at(text: str, line: int) -> Keys:
    """Return the key of the statement that a line of a text belongs to."""
    keys: Keys = ()
    for begin, found in places(text):
        if begin > line:
            break
        keys = found
    return keys


def keys_of(key: str) -> Keys:
    """Return the parts of a dotted key, or none if the text is not a key."""
    import tomllib

    if BARE_KEY.fullmatch(key):
        return tuple(key.split("."))
    keys = []
    try:
        found: Any = tomllib.loads(f"{key} = 0")
        while isinstance(found, dict):
            (part, found), = found.items()
            keys.append(part)
    except ValueError:
        return ()
    return tuple(keys)


# ---- messages -----------------------------------------------------------------------------------

def shown(keys: Keys) -> str:
    """Return a dotted key for a message."""
    return cut(".".join(key if BARE.fullmatch(key) else repr(cut(key)) for key in keys))


def shown_path(path: str) -> str:
    """Return a path for a message."""
    return path if path.isprintable() else repr(path)


def cut(text: str) -> str:
    """Return a text, shortened for a message."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."

"""Hosts files: what is read, and where the message puts what is wrong."""

import os
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import closing, contextmanager

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pyvirhost
from pyvirhost.cli import hostsfile
from pyvirhost.cli.arguments import keepalive_value, seconds_value
from pyvirhost.cli.hostsfile import (
    HostsError,
    check_names,
    hosts_of_file,
    hosts_of_uris,
    line_of,
)
from pyvirhost.poll.arguments import LEAST_SECONDS
from pyvirhost.poll.host import KEEPALIVE, Host

URI = "test:///default"
SECONDS = "must be a number of seconds, at least 0.001"


@pytest.fixture
def hosts_file(tmp_path):
    def hosts_file(content):
        path = tmp_path / "fleet.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)
    return hosts_file


@pytest.fixture
def parses(monkeypatch):
    """The lengths of what is given to tomllib."""
    lengths = []
    loads = tomllib.loads

    def counting(text):
        lengths.append(len(text))
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counting)
    return lengths


def problem_of(path):
    with pytest.raises(HostsError) as caught:
        hosts_of_file(path)
    problem = str(caught.value)
    assert problem.isprintable()
    assert len(problem) < len(path) + 400
    return problem


# ---- what is read -------------------------------------------------------------------------------

def test_a_host_is_a_uri_or_a_table(hosts_file):
    path = hosts_file("""\
        hosts.early.uri = "test:///early"
        hosts.early.readonly = false
        [hosts.gamma]
        uri = "qemu+tls://gamma/system"
        keepalive = "7:2"
        timeout = 2.5
        [hosts."delta.example.com"]
        uri = "qemu:///system"
        keepalive = "off"
        timeout = 3
    """)
    assert hosts_of_file(path) == [
        Host(name="early", uri="test:///early", readonly=False, keepalive=KEEPALIVE, timeout=None),
        Host(name="gamma", uri="qemu+tls://gamma/system", readonly=False, keepalive=(7, 2),
             timeout=2.5),
        Host(name="delta.example.com", uri="qemu:///system", readonly=False, keepalive=None,
             timeout=3)]
    path = hosts_file("""\
        [hosts]
        alpha = "test:///default"
        "beta 2" = { uri = "qemu+ssh://beta/system", readonly = true }
        '\u00e9' = 'x'
    """)
    assert [(host.name, host.uri, host.readonly) for host in hosts_of_file(path)] == [
        ("alpha", URI, False), ("beta 2", "qemu+ssh://beta/system", True), ("\u00e9", "x", False)]


def test_the_command_line_goes_before_the_file_and_that_before_the_defaults(hosts_file):
    path = hosts_file("""\
        [hosts]
        alpha = "test:///default"
        beta = { uri = "test:///default", timeout = 5, keepalive = "7:2", readonly = true }
    """)
    assert [(h.timeout, h.keepalive, h.readonly) for h in hosts_of_file(path)] == [
        (None, KEEPALIVE, False), (5, (7, 2), True)]
    assert [(h.timeout, h.keepalive, h.readonly) for h in hosts_of_file(path, timeout=9)] == [
        (9, KEEPALIVE, False), (9, (7, 2), True)]
    assert [(h.timeout, h.keepalive, h.readonly)
            for h in hosts_of_file(path, keepalive=None, timeout=None, readonly=True)] == [
        (None, None, True), (None, None, True)]
    host, = hosts_of_uris([URI], timeout=9, auth=pyvirhost.PasswordAuth("me", "secret"))
    assert (host.name, host.uri, host.timeout, host.readonly) == (URI, URI, 9, False)
    assert host.auth is not None


def test_a_host_opens_as_it_says(hosts_file):
    host, = hosts_of_file(hosts_file(f"hosts.here.uri = '{URI}'"))
    with host.open() as connection:
        assert connection.uri() == URI


@pytest.mark.parametrize("change", [
    lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n"),
    lambda text: text.rstrip(b"\n"), lambda text: text.replace(b"\n", b"\n\n# hosts.x = [\n"),
])
def test_editors_may_write_it_their_way(hosts_file, change):
    path = hosts_file(change(b"[hosts]\na = 'x'\n'b c' = \"y\"\n"))
    assert [(host.name, host.uri) for host in hosts_of_file(path)] == [("a", "x"), ("b c", "y")]


# ---- what is wrong ------------------------------------------------------------------------------

@pytest.mark.parametrize(("content", "problem"), [
    ("", ": no table hosts"),
    ("# only\n", ": no table hosts"),
    ("hosts = 3", ", line 1: hosts must be a table, not an integer"),
    ("[[hosts]]\na = 'x'", ", line 1: hosts must be a table, not an array"),
    ("\n[hosts]\n", ", line 2: hosts has no host"),
    ("[hosts]\na = 'x'\n[hots]\n", ", line 3: hots is unknown; the only table is hosts"),
    ("[hosts]\n\na = 5\n", ", line 3: hosts.a must be a URI or a table, not an integer"),
    ("[hosts]\n\na = 1979-05-27\n", ", line 3: hosts.a must be a URI or a table, not a time"),
    ("[hosts]\na = 'x'\nb = ['x',\n 'y']", ", line 3: hosts.b must be a URI or a table, not an "
     "array"),
    ("[hosts]\na = ''\n", ", line 2: hosts.a must be a URI"),
    ("[hosts]\na = 'x'\nb = \"a\\u0000\"", ", line 3: hosts.b is wrong: uri "),
    ("[hosts]\na = 'x'\n[hosts.b]\nreadonly = true", ", line 3: hosts.b has no uri"),
    ("[hosts.b]\nuri = 'x'\nreadonly = 1", ", line 3: hosts.b.readonly must be true or false"),
    ("[hosts.b]\nuri = 'x'\nkeepalive = '5'", ", line 3: hosts.b.keepalive must be "
     'INTERVAL:COUNT, as in "5:3", or "off"'),
    ("[hosts.b]\nuri = 'x'\n\ntimeout = 0", f", line 4: hosts.b.timeout {SECONDS}"),
    ("[hosts]\nb = { uri = 'x', port = 3 }", ", line 2: hosts.b.port is unknown, not one of "),
    ("hosts = { a = 'x', b = { uri = 3 } }", ", line 1: hosts.b.uri must be a URI"),
    ("[hosts]\na.uri = 'x'\na.port = 1\n", ", line 3: hosts.a.port is unknown, not one of "
     "uri, readonly, keepalive, timeout"),
    ("[hosts]\nb='x'\na.example.com = 'x'\n", ", line 3: hosts.a.example is unknown, not one of "
     "uri, readonly, keepalive, timeout; a name with dots needs quotes"),
    ("[hosts]\na = 'x'\nb = 'y'\na = 'z'\n", ", line 4: hosts.a: Cannot overwrite a value"),
    ("[hosts.a]\nuri = 'x'\n[hosts.a]\nuri = 'y'", ", line 3: hosts.a: Cannot declare "
     "('hosts', 'a') twice"),
    ("[hosts]\na = x\n", ", line 2: hosts.a: Invalid value"),
    ("[hosts]\n'a.b' = x\n", ", line 2: hosts.'a.b': Invalid value"),
    ("[hosts]\na = 'x'\nb", ", line 3: hosts.b: Expected '='"),
    ("[hosts]\na = 'x'\nfoo bar\n", ", line 3: Expected '='"),
    ("[hosts]\na = 'x'\n[hosts.b\nuri = 3\n", ", line 3: "),
    ("[hosts]\na = 'x", ", line 2: hosts.a: "),
    ("[hosts]\na = \"x\ny\"", ", line 2: hosts.a: "),
    ("[hosts]\na = 'x' # \x01\n", ", line 2: hosts.a: Found invalid character '\\x01'"),
    ("[hosts]\n# \x01\n", ", line 2: Found invalid character '\\x01'"),
    ("[hosts]\na = [\n 'x',\n y]\n", ", line 4: hosts.a: Invalid value"),
    ("[hosts]\na = 2026-02-30\n", ", line 2: hosts.a: Invalid date or datetime"),
    (b"[hosts]\na = '\xff'", ", line 2: not UTF-8"),
    (b"[hosts]\r\na = 'x'\r\nb = 5\r\n", ", line 3: hosts.b must be a URI or a table"),
    (b"[hosts]\ra = 'x'\r", ", line 1: "),
    (b"\xef\xbb\xbf[hosts]\na = 5\n", ", line 2: hosts.a must be a URI or a table"),
    (b"\xff\xfe[\0h\0", ", line 1: not UTF-8"),
])
def test_what_is_wrong_has_its_line_and_its_key(hosts_file, content, problem):
    path = hosts_file(content)
    assert problem_of(path).startswith(path + problem)


@pytest.mark.parametrize("timeout", [
    "0", "-1", "nan", "inf", "-inf", "true", "0.0009", "1e-300", "1e300", "'nan'", "''", "[1]",
    "9" * 400, "12:00:00"])
def test_a_timeout_is_at_least_a_millisecond(hosts_file, timeout):
    path = hosts_file(f"[hosts.b]\nuri = 'x'\ntimeout = {timeout}\n")
    assert problem_of(path) == f"{path}, line 3: hosts.b.timeout {SECONDS}"
    assert seconds_value(LEAST_SECONDS) == seconds_value(str(LEAST_SECONDS)) == 0.001


@pytest.mark.parametrize("keepalive", [
    "'0:3'", "'5:3:1'", "'-5:3'", "'5'", "'on'", "''", "5", "nan", "'\u0665:3'", "'5: 3'",
    "'9999999999:1'", "[5, 3]"])
def test_a_keepalive_is_two_numbers_or_off(hosts_file, keepalive):
    path = hosts_file(f"[hosts.b]\nuri = 'x'\nkeepalive = {keepalive}\n")
    assert ", line 3: hosts.b.keepalive must be INTERVAL:COUNT" in problem_of(path)
    assert (keepalive_value("5:0"), keepalive_value("off")) == ((5, 0), None)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_end_lines(hosts_file, separator):
    lines = f"[hosts]\na = 'x{separator}y'\nb = 'x' # {separator}\nc = 5\n"
    if separator < " ":  # no TOML
        assert ", line 2: hosts.a: " in problem_of(hosts_file(lines))
    else:
        assert ", line 4: hosts.c must be" in problem_of(hosts_file(lines))
        assert ", line 4: hosts.c: Invalid" in problem_of(hosts_file(lines.replace("5", "z")))


@pytest.mark.parametrize(("name", "shown"), [
    ("", "''"), (" ", "' '"), ("a ", "'a '"), ("\\u001b[2J", "'\\x1b[2J'"), ("\\n", "'\\n'"),
    ("a\u202eb", "'a\\u202eb'"), ("a\u200bb", "'a\\u200bb'"), ("\ufeffa", "'\\ufeffa'"),
    ("a\u2028b", "'a\\u2028b'"), ("a\u00a0b", "'a\\xa0b'"), ("\ue000", "'\\ue000'")])
def test_a_name_can_be_seen(hosts_file, name, shown):
    path = hosts_file(f"[hosts]\na = 'x'\n\"{name}\" = 'x'\n")
    assert problem_of(path).startswith(f"{path}, line 3: hosts.{shown} must ")


def test_a_name_has_one_spelling(hosts_file):
    path = hosts_file("[hosts]\n'caf\u00e9' = 'x'\nb = 'x'\n'cafe\u0301' = 'x'\n")
    assert problem_of(path).startswith(f"{path}, line 4: hosts.'cafe\u0301' is defined twice")
    # They look different.
    path = hosts_file("[hosts]\na = 'x'\nA = 'x'\n2 = 'x'\n'\u00b2' = 'x'\n")
    assert len(hosts_of_file(path)) == 4


def test_names_are_of_one_host_each():
    check_names(hosts_of_uris(["a", "b", "B"]))
    with pytest.raises(HostsError, match="two hosts are named b"):
        check_names(hosts_of_uris(["a", "b", "b"]))
    with pytest.raises(HostsError, match="two hosts are named 'cafe\u0301'"):
        check_names(hosts_of_uris(["caf\u00e9", "cafe\u0301"]))


@pytest.mark.parametrize("uri", ["", " ", "a\x1b[2J", "a\0", "\udcff", "a\u202e"])
def test_a_uri_that_is_a_name_can_be_seen(uri):
    with pytest.raises(HostsError, match="must") as caught:
        hosts_of_uris([uri])
    assert str(caught.value).isprintable()


# ---- bounds -------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", [
    "[hosts]\na = " + "[" * 5000, "[hosts]\na = " + "{b = " * 5000, "[hosts]\n" + "[" * 5000,
    "[hosts]\na = " + "[" * 5000 + "]" * 5000, "[hosts]\na" + ".a" * 5000 + " = 1",
    "[hosts]\n[a" + ".a" * 5000 + "]", "[hosts]\na = {'a'" + " . 'a'" * 5000 + " = 1}",
])
def test_nesting_is_bounded(hosts_file, content):
    path = hosts_file(content)
    assert problem_of(path).startswith(f"{path}, line 2: ")
    assert problem_of(path).endswith("nested more than 32 deep")


@pytest.mark.parametrize("value", [
    "1" * 5000, "-" + "1_" * 5000, "[0, " + "1" * 5000, "0x" + "f" * 5000])
def test_numbers_are_bounded(hosts_file, value):
    path = hosts_file(f"[hosts.a]\nuri = 'x'\ntimeout = {value}")
    assert problem_of(path).startswith(f"{path}, line 3: hosts.a.timeout: a number ")


def test_a_key_is_cut_in_the_message(hosts_file):
    path = hosts_file(f"[hosts]\n'{'a' * 100_000}' = 5\n")
    assert f", line 2: hosts.{'a' * 80}" in problem_of(path)
    path = hosts_file(f"['{'a' * 100_000}']\n['{'a' * 100_000}']\n")
    assert ", line 2: " in problem_of(path)


def test_strings_and_arrays_are_not_bounded(hosts_file):
    content = ("[hosts]\na = { uri = '" + "[{.=" * 5000 + "' }\n" + "# [{.=" * 5000 + "\n"
               + " " * 5000 + "b =" + " " * 5000 + "[" + "1.5, " * 5000 + "]\n")
    path = hosts_file(content)
    assert problem_of(path) == (
        f"{path}, line 4: hosts.b must be a URI or a table, not an array")


@pytest.mark.parametrize(("quotes", "line"), [
    ('"""', '  [ " "" { # \\""" = '), ("'''", "  [ ' '' { # \\ = ")])
def test_a_string_of_many_lines_is_skipped(hosts_file, parses, quotes, line):
    text = f"{quotes}{f'{line}{chr(10)}' * 20_000}{quotes}"
    behind = hosts_file(f"[hosts]\na = {text}\nb = 5\n")
    assert problem_of(behind).startswith(f"{behind}, line 20003: hosts.b must be")
    assert sum(parses) < 1.1 * os.path.getsize(behind)
    before = hosts_file(f"[hosts]\n'a b' = 5\nb = {text}\n")
    assert problem_of(before).startswith(f"{before}, line 2: hosts.'a b' must be")
    unclosed = hosts_file(f"[hosts]\na = 'x'\nb = {text[:-4]}\n")
    assert problem_of(unclosed).startswith(f"{unclosed}, line 3: hosts.b: ")
    syntax = hosts_file(f"[hosts]\na = x\nb = {text}\n")
    assert problem_of(syntax).startswith(f"{syntax}, line 2: hosts.a: Invalid value")


def test_100000_hosts_are_parsed_once(hosts_file, parses):
    text = "[hosts]\n" + "".join(f"host{i} = '{URI}'\n" for i in range(99_999))
    assert len(hosts_of_file(hosts_file(text + f"last = '{URI}'\n"))) == 100_000
    del parses[:]
    path = hosts_file(text + "last = 5\n")
    assert ", line 100001: hosts.last must be a URI" in problem_of(path)
    assert sum(parses) < 1.1 * os.path.getsize(path)


# ---- what is no file ----------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "problem"), [
    ("/no/such/file", "cannot read /no/such/file: No such file or directory"),
    ("/", "cannot read /: Is a directory"),
    ("a\0b", "cannot read 'a\\x00b': embedded null byte"),
    ("/no\nfile", "cannot read '/no\\nfile': No such file or directory"),
    ("/no\udcfffile", "cannot read '/no\\udcfffile': No such file or directory"),
    ("", "cannot read : No such file or directory"),
    ("a" * 300, f"cannot read {'a' * 300}: File name too long"),
    ("/dev/zero", "cannot read /dev/zero: Is neither a file nor a pipe"),
    ("/dev/null", "cannot read /dev/null: Is neither a file nor a pipe"),
])
def test_what_cannot_be_read(path, problem):
    assert problem_of(path) == problem


def test_a_file_without_permission(hosts_file):
    path = hosts_file("")
    os.chmod(path, 0)
    with nobody():
        assert problem_of(path) == f"cannot read {path}: Permission denied"


@contextmanager
def nobody():
    """Be somebody whom permissions hold for."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 characters only
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind("socket")
        assert problem_of("socket") == "cannot read socket: No such device or address"


def test_a_file_is_bounded(hosts_file, monkeypatch):
    path = hosts_file(f"hosts.a = '{URI}'\n")
    monkeypatch.setattr(hostsfile, "MOST_BYTES", os.path.getsize(path))
    assert len(hosts_of_file(path)) == 1
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n")
    assert problem_of(path).startswith(f"cannot read {path}: more than ")
    monkeypatch.undo()
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole
    assert problem_of(path) == f"cannot read {path}: more than 16 MiB"


def test_a_pipe_without_an_end_is_bounded():
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as process:
        path = f"/dev/fd/{process.stdout.fileno()}"
        try:
            problem = problem_of(path)
        finally:
            process.terminate()
    assert problem == f"cannot read {path}: more than 16 MiB"


def test_a_pipe_that_nobody_writes_to(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    assert problem_of(path) == f"{path}: no table hosts"


def test_a_pipe_whose_writer_comes_late_and_pauses(tmp_path, monkeypatch):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    waiting, opened = threading.Event(), threading.Event()
    wait_for_writer, set_blocking = hostsfile.wait_for_writer, os.set_blocking

    def waited(pipe):
        waiting.set()
        wait_for_writer(pipe)

    def read_on(pipe, blocking):
        opened.set()
        set_blocking(pipe, blocking)

    monkeypatch.setattr(hostsfile, "FIRST_WRITER", 60)
    monkeypatch.setattr(hostsfile, "wait_for_writer", waited)
    monkeypatch.setattr(os, "set_blocking", read_on)

    def write():
        waiting.wait()
        with open(path, "wb", buffering=0) as pipe:
            pipe.write(b"[hosts]\n")
            opened.wait()  # the first was there, and the rest is not
            pipe.write(b"".join(b"h%d = '%s'\n" % (i, URI.encode()) for i in range(10_000)))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert len(hosts_of_file(path)) == 10_000
    writer.join()


@pytest.mark.parametrize("form", ['"$1" -c "$2" <(cat "$3")', 'cat "$3" | "$1" -c "$2" /dev/stdin',
                                  '"$1" -c "$2" /dev/stdin < "$3"'])
def test_a_shell_may_generate_it(hosts_file, form):
    path = hosts_file("[hosts]\n" + "".join(f"h{i} = 'x'\n" for i in range(10_000)))
    program = ("import sys; from pyvirhost.cli.hostsfile import hosts_of_file; "
               "print(len(hosts_of_file(sys.argv[1])))")
    done = subprocess.run(["bash", "-c", form, "bash", sys.executable, program, path],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "10000\n"


# ---- whatever it holds --------------------------------------------------------------------------

NAMES = st.sampled_from([
    "a", "b", "1", "hosts", "uri", "timeout", "'a b'", '"\\u00e9"', "'e\u0301'", "'#'", '"]"',
    "'='", '"\\""', "''", "a.b", "hosts.a", "hosts . 'b.c'"])
STRINGS = st.sampled_from(["'x'", '"x"', '""', '"\\\\"', '"""\n[x]\n"""', "'''\n[x]='\n''''",
                           '"""a\\"""\n"""""', '"#"', "'\"'", "''"])
VALUES = st.recursive(
    STRINGS | st.sampled_from(["1", "nan", "inf", "1e9", "2026-01-01", "true", "0x1f", "5_0"]),
    lambda values: (st.lists(values, max_size=3).map(lambda v: "[\n" + ", # ]\n".join(v) + "\n]")
                    | st.lists(st.tuples(NAMES, values).map(" = ".join), max_size=3)
                    .map(lambda v: "{ " + ", ".join(v) + " }")), max_leaves=4)
LINES = (st.tuples(NAMES, VALUES).map(" = ".join) | NAMES.map(lambda name: f"[{name}]")
         | NAMES.map(lambda name: f" [ {name} ] # ['") | NAMES.map(lambda name: f"[[{name}]]")
         | st.sampled_from(["", "# 'x\" = [", "[hosts]", "[hosts.a]", "uri = 'x'", "timeout = 5"]))
MARKS = "ab.=[]{}\"'#\\\n\r ,\t\0\ufeff\u2028\u00e9\u0301+-_:0159xuU"
NOISE = st.text(MARKS, max_size=8) | st.text(max_size=4)
TEXTS = (st.lists(LINES, max_size=8).map("\n".join)
         | st.lists(LINES | NOISE | STRINGS | NAMES, max_size=12).map("".join)
         | st.lists(LINES | NOISE, max_size=6).map("\n".join))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_any_text_is_hosts_or_one_line_of_error(text):
    read, write = os.pipe()
    try:
        with open(write, "wb") as pipe:
            pipe.write(text.encode())
        path = f"/dev/fd/{read}"
        hosts, problem = [], ""
        try:
            hosts = hosts_of_file(path)
        except HostsError as error:
            problem = str(error)
        assert bool(hosts) != bool(problem)
        assert problem.isprintable()
        assert len(problem) < 500
        check_names(hosts)
    finally:
        os.close(read)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
@example("a = '''\n'\n''''\n[b]\n\"c\" = 1\n")
@example('a = ["""x""""]\nb = 1\n')
@example("a = ['''x'''''] # '\nb = 1\n")
def test_a_line_is_the_first_that_tomllib_needs_for_the_key(text):
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = text.split("\n")
    for keys in paths(found):
        assert line_of(text, keys) == first_line(lines, keys)


def paths(table, above=()):
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


def first_line(lines, keys):
    """Return the line in which a key begins, from what tomllib finds in ever more lines."""
    begin = 1
    for count in range(1, len(lines) + 1):
        try:
            found = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return begin
        begin = count + 1
    raise AssertionError(keys)

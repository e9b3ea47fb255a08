"""Hosts files: what is read, and where the message puts what is wrong."""

import re

import pytest

from pyvirhost import Host
from pyvirhost.cli.hostsfile import HostsError, check_names, hosts_of_file, hosts_of_uris


@pytest.fixture
def hosts_file(tmp_path):
    def hosts_file(content):
        path = tmp_path / "fleet.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)
    return hosts_file


def test_a_host_is_a_uri_or_a_table(hosts_file):
    path = hosts_file("""\
        [hosts]
        alpha = "test:///default"
        "beta 2" = { uri = "qemu+ssh://beta/system", readonly = true }
        [hosts.gamma]
        uri = "qemu+tls://gamma/system"
        keepalive = "7:2"
        timeout = 2.5
        [hosts.delta]
        uri = "qemu:///system"
        keepalive = "off"
        timeout = 3
    """)
    assert hosts_of_file(path) == [
        Host(name="alpha", uri="test:///default", readonly=False),
        Host(name="beta 2", uri="qemu+ssh://beta/system", readonly=True),
        Host(name="gamma", uri="qemu+tls://gamma/system", readonly=False, keepalive=(7, 2),
             timeout=2.5),
        Host(name="delta", uri="qemu:///system", readonly=False, keepalive=None, timeout=3)]
    for host in hosts_of_file(path, keepalive=None, timeout=9, readonly=True):
        assert (host.keepalive, host.timeout, host.readonly) == (None, 9, True)


@pytest.mark.parametrize(("content", "problem"), [
    ("", "{path}: no table hosts"),
    ("# only\n", "{path}: no table hosts"),
    ("hosts = 3", "{path}, line 1: hosts must be a table, not an integer"),
    ("\n[hosts]\n", "{path}, line 2: hosts has no host"),
    ("[hosts]\na = 'x'\n[hots]\n", "{path}, line 3: hots is unknown, the only table is hosts"),
    ("[hosts]\n\na = 5\n", "{path}, line 3: hosts.a must be a URI or a table, not an integer"),
    ("[hosts]\na = 'x'\nb = ['x',\n 'y']", "{path}, line 3: hosts.b must be a URI or a table, not "
     "an array"),
    ("[hosts]\na = ''\n", "{path}, line 2: hosts.a must be a URI"),
    ("[hosts]\na = 'x'\n[hosts.b]\nreadonly = true", "{path}, line 3: hosts.b has no uri"),
    ("[hosts.b]\nuri = 'x'\nreadonly = 1", "{path}, line 3: hosts.b.readonly must be true or "
     "false"),
    ("[hosts.b]\nuri = 'x'\nkeepalive = '5'", "{path}, line 3: hosts.b.keepalive must be "
     'INTERVAL:COUNT, as in "5:3", or "off"'),
    ("[hosts.b]\nuri = 'x'\n\ntimeout = 0", "{path}, line 4: hosts.b.timeout must be a number of "
     "seconds"),
    ("[hosts.b]\nuri = 'x'\ntimeout = nan", "{path}, line 3: hosts.b.timeout must be a number of "
     "seconds"),
    ("[hosts.b]\nuri = 'x'\ntimeout = true", "{path}, line 3: hosts.b.timeout must be a number of "
     "seconds"),
    ("[hosts]\na.uri = 'x'\na.port = 1\n", "{path}, line 3: hosts.a.port is unknown, not one of "
     "uri, readonly, keepalive, timeout"),
    ("[hosts]\na = 'x'\nb = 'y'\na = 'z'\n", "{path}, line 4: a: Cannot overwrite a value"),
    ("[hosts.a]\nuri = 'x'\n[hosts.a]\nuri = 'y'", "{path}, line 3: [hosts.a]: Cannot declare "
     "('hosts', 'a') twice"),
    ("[hosts]\na = x\n", "{path}, line 2: a: Invalid value"),
    ("[hosts]\na = 'x", "{path}, line 2"),
    ("[hosts]\na = \"x\ny\"", "{path}, line 2: a: "),
    (b"[hosts]\na = '\xff'", "{path}, line 2: not UTF-8"),
])
def test_what_is_wrong_has_its_line_and_its_key(hosts_file, content, problem):
    path = hosts_file(content)
    with pytest.raises(HostsError, match=re.escape(problem.format(path=path))):
        hosts_of_file(path)


@pytest.mark.parametrize(("path", "problem"), [
    ("/no/such/file", "cannot read /no/such/file: No such file or directory"),
    ("/", "cannot read /: Is a directory"), ("a\0b", "cannot read 'a\\x00b': embedded null byte"),
])
def test_a_file_that_cannot_be_read(path, problem):
    with pytest.raises(HostsError, match=re.escape(problem)):
        hosts_of_file(path)


def test_a_big_file_is_as_good(hosts_file):
    lines = [f'host{i} = "test:///default"' for i in range(2000)]
    assert len(hosts_of_file(hosts_file("\n".join(["[hosts]", *lines])))) == 2000
    lines[1500] = 'host1500 = ["""\n\n\n""", 3]'
    with pytest.raises(HostsError, match=r", line 1502: hosts\.host1500 must be a URI"):
        hosts_of_file(hosts_file("\n".join(["[hosts]", *lines])))


def test_names_are_of_one_host_each():
    check_names(hosts_of_uris(["a", "b"]))
    with pytest.raises(HostsError, match="two hosts are named b"):
        check_names(hosts_of_uris(["a", "b", "b"]))

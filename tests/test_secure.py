"""SASL and TLS against daemons that want them, with right and with wrong credentials."""

import os
import threading

import pytest
from authority import Authority
from daemon import PASSWORD, USER, Daemon, wait_until

import pyvirhost
from pyvirhost import CredentialType

FRED = pyvirhost.PasswordAuth(USER, PASSWORD)
AUTHORITY = Authority("authority")
STRANGER = Authority("stranger")


@pytest.fixture(scope="module")
def scram():
    """A daemon with SCRAM, which proves the password and encrypts nothing, and with TLS."""
    with Daemon(sasl="scram-sha-256", authority=AUTHORITY) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def digest():
    """A daemon with DIGEST-MD5, which encrypts; without that libvirt has no SASL on plain TCP."""
    with Daemon(sasl="digest-md5") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def tls():
    """A daemon with TLS and nothing besides."""
    with Daemon(authority=AUTHORITY) as daemon:
        yield daemon


@pytest.fixture
def pki(tmp_path):
    """A function that makes a client's folder: whom it trusts, and who signed its certificate."""
    def pki(trusted, signer):
        folder = tmp_path / f"pki{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "cacert.pem").write_text(
            "".join(authority.certificate for authority in trusted))
        if signer is not None:
            signer.issue("client.example", folder / "clientcert.pem", folder / "clientkey.pem")
        return folder

    return pki


@pytest.fixture(params=["scram on unix", "scram on tls", "digest on unix", "digest on tcp"])
def uri(request, scram, digest, pki):
    """A URI of each transport that can carry each mechanism."""
    mechanism, _, transport = request.param.split()
    uri = {
        "unix": lambda daemon: daemon.test_uri,
        "tcp": lambda daemon: daemon.tcp_uri,
        "tls": lambda daemon: f"{daemon.tls_uri}?pkipath={pki([AUTHORITY], AUTHORITY)}",
    }[transport]
    return uri({"scram": scram, "digest": digest}[mechanism])


def assert_reads(connection):
    assert connection.node_info().cpus == 16
    assert connection.cells_free_memory() == {0: 2097152, 1: 4194304}
    assert connection.cpu_map().present == 8
    assert connection.cpu_stats().user == 9797400000
    assert connection.capabilities().startswith("<capabilities>")


def resources():
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def assert_keeps_resources(attempt):
    # The first rounds are not counted: they load what is loaded once.
    for _ in range(3):
        attempt()
    before = resources()
    for _ in range(10):
        attempt()
    wait_until(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)),
               "descriptors and threads to end")


# ---- SASL ----

@pytest.mark.parametrize("timeout", [None, 20])
def test_the_right_password_opens(uri, timeout):
    with pyvirhost.open(uri, auth=FRED, timeout=timeout) as connection:
        assert_reads(connection)


@pytest.mark.parametrize("timeout", [None, 20])
def test_a_callable_is_asked_for_all_credentials_at_once(uri, timeout):
    asked = []

    def answer(credentials):
        asked.append(credentials)
        return [PASSWORD if credential.type is CredentialType.PASSPHRASE else USER
                for credential in credentials]

    with pyvirhost.open(uri, auth=answer, timeout=timeout) as connection:
        assert_reads(connection)
    assert [(credential.type, credential.challenge, credential.default)
            for credentials in asked for credential in credentials] == [
        (CredentialType.USERNAME, "Authorization Name", None),
        (CredentialType.AUTHNAME, "Authentication Name", None),
        (CredentialType.PASSPHRASE, "Password", None),
    ]
    assert len(asked) == 1
    assert "password" in asked[0][2].prompt


REFUSED = {
    "a wrong password": (pyvirhost.PasswordAuth(USER, "wrong"), "authentication failed"),
    "an empty password": (pyvirhost.PasswordAuth(USER, ""), "authentication failed"),
    "an unknown user": (pyvirhost.PasswordAuth("nobody", PASSWORD), "authentication failed"),
    "declining": (lambda _: None, "Failed to collect auth credentials"),
    "too few answers": (lambda _: [USER], "1 answers to 3 questions"),
    "no answer": (lambda asked: [None] * len(asked), "no answer to .*CredentialType.USERNAME"),
    "nobody to ask": (None, "authentication failed"),
}


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize(("auth", "message"), REFUSED.values(), ids=REFUSED)
def test_no_wrong_answer_opens(uri, auth, message, timeout):
    with pytest.raises(pyvirhost.AuthenticationError, match=message) as caught:
        pyvirhost.open(uri, auth=auth, timeout=timeout)
    assert caught.value.code == pyvirhost.ErrorCode.AUTH_FAILED
    assert PASSWORD not in repr(caught.value) + str(vars(caught.value))


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_the_callable_raises_is_raised_by_open(uri, error, timeout):
    def answer(_):
        raise error("mine")

    with pytest.raises(error, match="mine"):
        pyvirhost.open(uri, auth=answer, timeout=timeout)


def test_an_open_may_be_tried_again_with_the_right_password(uri):
    with pytest.raises(pyvirhost.AuthenticationError):
        pyvirhost.open(uri, auth=pyvirhost.PasswordAuth(USER, "wrong"))
    with pyvirhost.open(uri, auth=FRED) as connection:
        assert_reads(connection)


def test_a_password_without_encryption_is_not_for_plain_tcp(scram):
    with pytest.raises(pyvirhost.AuthenticationError, match="authentication failed"):
        pyvirhost.open(scram.tcp_uri, auth=FRED)


def test_answers_that_take_too_long_leave_nothing(scram):
    asked, done = threading.Event(), threading.Event()

    def answer(_):
        asked.set()
        done.wait(20)
        return [USER, USER, PASSWORD]

    with pyvirhost.open(scram.test_uri, auth=FRED):
        pass
    before = resources()
    with pytest.raises(pyvirhost.OperationTimeoutError):
        pyvirhost.open(scram.test_uri, auth=answer, timeout=1)
    assert asked.is_set()
    done.set()
    wait_until(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)),
               "the abandoned attempt to close itself")


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("auth", [auth for auth, _ in REFUSED.values()], ids=REFUSED)
def test_refused_opens_leave_nothing(uri, auth, timeout):
    def attempt():
        with pytest.raises(pyvirhost.AuthenticationError):
            pyvirhost.open(uri, auth=auth, timeout=timeout)

    assert_keeps_resources(attempt)


# ---- TLS ----

@pytest.mark.parametrize("timeout", [None, 20])
def test_the_right_certificates_open(tls, pki, timeout):
    with pyvirhost.open(
            f"{tls.tls_uri}?pkipath={pki([AUTHORITY], AUTHORITY)}", timeout=timeout) as connection:
        assert_reads(connection)


UNTRUSTED = {
    # What the client finds wrong by itself, what it finds wrong with the server, and what the
    # server finds wrong with it.
    "no folder": (None, "CA certificate"),
    "a client certificate that its own authority did not sign": (
        ([AUTHORITY], STRANGER), "Our own certificate .* failed validation"),
    "a server of an authority that the client does not know": (
        ([STRANGER], STRANGER), "verify peer's certificate"),
    "a client of an authority that the server does not know": (
        ([AUTHORITY, STRANGER], STRANGER), "TLS|certificate|receiving|recv"),
    "a client without a certificate": (([AUTHORITY], None), "TLS|certificate|receiving|recv"),
}


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize(("credentials", "message"), UNTRUSTED.values(), ids=UNTRUSTED)
def test_wrong_certificates_are_clear_errors_and_leave_nothing(
        tls, pki, tmp_path, credentials, message, timeout):
    folder = tmp_path / "none" if credentials is None else pki(*credentials)

    def attempt():
        with pytest.raises(pyvirhost.LibvirtError, match=message) as caught:
            pyvirhost.open(f"{tls.tls_uri}?pkipath={folder}", timeout=timeout)
        assert not isinstance(caught.value, pyvirhost.OperationTimeoutError)

    assert_keeps_resources(attempt)


@pytest.mark.parametrize("timeout", [None, 20])
def test_a_server_of_another_name_is_refused(pki, timeout, capfd):
    with (Daemon(authority=AUTHORITY, name="elsewhere.example") as daemon,
          pytest.raises(pyvirhost.AuthenticationError, match="verify peer's certificate")):
        pyvirhost.open(
            f"{daemon.tls_uri}?pkipath={pki([AUTHORITY], AUTHORITY)}", timeout=timeout)
    # libvirt's log, which goes to stderr, says what its error does not.
    assert "does not match the hostname localhost" in capfd.readouterr().err


def test_plain_clients_and_tls_servers_do_not_hang_on_each_other(tls, pki):
    uri = f"{tls.tls_uri}?pkipath={pki([AUTHORITY], AUTHORITY)}"
    for crossed in (uri.replace(str(tls.tls_port), str(tls.port), 1),
                    tls.tcp_uri.replace(str(tls.port), str(tls.tls_port), 1)):
        with pytest.raises(pyvirhost.LibvirtError) as caught:
            pyvirhost.open(crossed, timeout=20)
        assert not isinstance(caught.value, pyvirhost.OperationTimeoutError)


# ---- what is secure ----

@pytest.mark.parametrize("driver", ["test", "qemu"])
@pytest.mark.parametrize(("daemon", "transport", "secure", "encrypted"), [
    ("tls", "unix", True, False),
    ("tls", "tcp", False, False),
    ("tls", "tls", True, True),
    ("digest", "unix", True, True),
    ("digest", "tcp", True, True),
    # libvirt takes every SASL session for an encrypted one. Where that could matter, on plain
    # TCP, it has no SASL without encryption.
    ("scram", "unix", True, True),
    ("scram", "tls", True, True),
])
def test_what_is_secure_and_encrypted(request, daemon, transport, secure, encrypted, driver, pki):
    daemon = request.getfixturevalue(daemon)
    uri = {"unix": daemon.test_uri, "tcp": daemon.tcp_uri,
           "tls": f"{daemon.tls_uri}?pkipath={pki([AUTHORITY], AUTHORITY)}"}[transport]
    if driver == "qemu":
        uri = uri.replace("test+", "qemu+", 1).replace("/default", "/session", 1)
    with pyvirhost.open(uri, auth=FRED) as connection:
        assert connection.is_secure() is secure
        assert connection.is_encrypted() is encrypted

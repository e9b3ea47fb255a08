"""Credentials: asked for by the test driver, which needs no daemon for it."""

import enum
import gc
import os
import subprocess
import sys
import textwrap
import threading
import traceback

import pytest
from daemon import threads_named, wait_until

import pyvirhost
from pyvirhost import constants

ASTROCHICKEN = pyvirhost.PasswordAuth("astrochicken", "123456")


@pytest.fixture
def uri(tmp_path):
    """A host that asks for a name and, of one of its two users, for a password."""
    path = tmp_path / "node.xml"
    path.write_text("<node><auth><user password='123456'>astrochicken</user>"
                    "<user>nopass</user></auth></node>")
    return f"test://{path}"


def test_a_callable_is_asked_and_answers(uri):
    asked = []

    def answer(credentials):
        asked.extend(credentials)
        return ["astrochicken" if credentials[0].type == constants.VIR_CRED_AUTHNAME else "123456"]

    with pyvirhost.open(uri, auth=answer) as connection:
        assert connection.node_info().cpus > 0
    name, password = asked
    assert name.type is pyvirhost.CredentialType.AUTHNAME
    assert "username" in name.prompt
    assert name.challenge
    assert name.default is None
    assert password.type is pyvirhost.CredentialType.PASSPHRASE
    assert "astrochicken" in password.prompt


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("auth", [
    ASTROCHICKEN,
    pyvirhost.PasswordAuth(lambda: "astrochicken", lambda: "123456"),
    pyvirhost.PasswordAuth("nopass", ""),
])
def test_a_name_and_a_password(uri, auth, timeout):
    with pyvirhost.open(uri, auth=auth, timeout=timeout) as connection:
        assert connection.node_info().cpus > 0


def test_without_answers_there_is_no_connection(uri):
    with pytest.raises(pyvirhost.AuthenticationError):
        pyvirhost.open(uri)


@pytest.mark.parametrize(("auth", "message"), [
    (pyvirhost.PasswordAuth("astrochicken", "wrong"), "authentication failed"),
    (pyvirhost.PasswordAuth("nobody", "123456"), "authentication failed"),
    (lambda _: None, "failed"),
    (lambda _: [], "auth returned 0 answers to 1 questions"),
    (lambda _: ["a", "b"], "auth returned 2 answers to 1 questions"),
    (lambda _: [None], "auth has no answer to <CredentialType.AUTHNAME"),
    (lambda _: [5], "auth must answer with str, not int"),
    (lambda _: [b"x"], "auth must answer with str, not bytes"),
    (lambda _: "name", "auth must return a list of str or None, not str"),
    (lambda _: 7, "auth must return a list of str or None, not int"),
    (lambda _: ["a\0b"], "auth answered with a NUL character"),
    (lambda _: ["a\ud800b"], "auth answered with a lone surrogate"),
])
@pytest.mark.parametrize("timeout", [None, 20])
def test_declining_and_nonsense_are_authentication_errors(uri, auth, message, timeout):
    with pytest.raises(pyvirhost.AuthenticationError, match=message) as caught:
        pyvirhost.open(uri, auth=auth, timeout=timeout)
    assert caught.value.code == constants.VIR_ERR_AUTH_FAILED
    assert isinstance(caught.value, PermissionError)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("timeout", [None, 20])
def test_what_the_callable_raises_is_raised_by_open(uri, error, timeout):
    def answer(_):
        raise error("mine")

    with pytest.raises(error, match="mine"):
        pyvirhost.open(uri, auth=answer, timeout=timeout)


@pytest.mark.parametrize("auth", [5, "name", ("name", "password"), [lambda _: None]])
def test_what_cannot_be_called_is_refused(uri, auth):
    with pytest.raises(TypeError, match=r"^auth must be callable, not"):
        pyvirhost.open(uri, auth=auth)


@pytest.mark.parametrize("auth", [lambda: None, lambda _, __: None])
def test_what_takes_other_arguments_is_refused(uri, auth):
    with pytest.raises(TypeError, match=r"^auth must take 1 argument"):
        pyvirhost.open(uri, auth=auth)


@pytest.mark.parametrize(("name", "password"), [(5, "x"), ("x", None), (b"x", "x")])
def test_a_name_and_a_password_are_text(name, password):
    with pytest.raises(TypeError, match=r"must be a str or a callable"):
        pyvirhost.PasswordAuth(name, password)


def test_no_repr_shows_a_secret(uri):
    assert repr(ASTROCHICKEN) == "<PasswordAuth>"
    with pytest.raises(pyvirhost.AuthenticationError) as caught:
        pyvirhost.open(uri, auth=pyvirhost.PasswordAuth("astrochicken", "s3cret"))
    assert "s3cret" not in repr(caught.value) + str(vars(caught.value))


@pytest.mark.parametrize("timeout", [None, 20])
def test_no_error_holds_a_secret_that_cannot_be_sent(uri, timeout):
    with pytest.raises(pyvirhost.AuthenticationError) as caught:
        pyvirhost.open(uri, auth=lambda _: ["s3cret\ud800"], timeout=timeout)
    held = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    while held is not None:
        frames = [frame for frame in held.stack if frame.filename != __file__]
        assert "s3cret" not in f"{held} {[frame.locals for frame in frames]}"
        held = held.__cause__ or held.__context__
    assert caught.value.__context__ is caught.value.__cause__ is None
    assert "s3cret" not in repr(vars(caught.value))


def test_a_login_changes_nothing_in_the_interpreter(tmp_path):
    # In another one: CPython has one bytes object for all that are of one and the same character.
    path = tmp_path / "node.xml"
    path.write_text("<node><auth><user password='x'>q</user></auth></node>")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent("""
        import sys, pyvirhost
        for timeout in (None, None, 20, 20):
            pyvirhost.open(sys.argv[1], auth=pyvirhost.PasswordAuth("q", "x"),
                           timeout=timeout).close()
        for number in range(256):
            assert list(bytes([number])) == [number], number
        print("end")
    """), f"test://{path}"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_answers_may_be_members_of_an_enum(uri):
    class User(enum.StrEnum):
        NAME = "astrochicken"
        PASSWORD = "123456"

    with pyvirhost.open(uri, auth=pyvirhost.PasswordAuth(User.NAME, User.PASSWORD)) as connection:
        assert connection.node_info().cpus > 0


@pytest.mark.thread_unsafe(reason="counts references")
def test_opening_frees_what_it_was_given(uri):
    class Answers:
        def __call__(self, credentials):
            return [None] if self.decline else ["nopass"]  # type: ignore[attr-defined]

    answers = Answers()
    before = sys.getrefcount(answers)
    for answers.decline in (False, True):  # type: ignore[attr-defined]
        for timeout in (None, 20):
            for _ in range(20):
                try:
                    pyvirhost.open(uri, auth=answers, timeout=timeout).close()
                except pyvirhost.AuthenticationError:
                    assert answers.decline  # type: ignore[attr-defined]
    gc.collect()
    assert sys.getrefcount(answers) == before


def test_an_answer_that_takes_too_long(uri):
    over = threading.Event()
    with pytest.raises(pyvirhost.OperationTimeoutError, match=r"took longer than 0.05 s"):
        pyvirhost.open(uri, auth=lambda _: over.wait(20) and ["nopass"], timeout=0.05)  # type: ignore[return-value]
    over.set()
    # Its end would otherwise fall into some later test.
    wait_until(lambda: not threads_named("pyvirhost-open"),
               "the abandoned attempt to end")


def test_the_default_prompts_have_a_name():
    assert repr(pyvirhost.DEFAULT_AUTH) == "pyvirhost.DEFAULT_AUTH"
    with pyvirhost.open("test:///default", auth=pyvirhost.DEFAULT_AUTH) as connection:
        assert connection.node_info().cpus == 16

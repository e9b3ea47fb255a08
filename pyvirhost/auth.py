"""Credentials: what a server asks for while a connection is opened, and ready answers."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pyvirhost.constants import CredentialType


class Credential(NamedTuple):
    """One thing that a server asks for, with `CredentialType` saying what."""

    type: CredentialType | int
    """What is asked for; a plain int where it is newer than this package."""
    prompt: str | None
    """What to show to a person."""
    challenge: str | None
    """What to show besides, such as the host's name."""
    default: str | None
    """The answer to take where there is none."""


Authenticator = Callable[[list[Credential]], Iterable[str | None] | None]
Answer = str | Callable[[], str]


class Prompts:
    """libvirt's own questions on the terminal; `DEFAULT_AUTH` stands for them."""

    def __repr__(self) -> str:
        return "pyvirhost.DEFAULT_AUTH"

    def __call__(self, credentials: list[Credential]) -> None:
        """Decline: only libvirt itself can ask them."""


DEFAULT_AUTH = Prompts()
NAMES = (CredentialType.USERNAME, CredentialType.AUTHNAME,
         CredentialType.ECHOPROMPT)
SECRETS = (CredentialType.PASSPHRASE, CredentialType.NOECHOPROMPT)


class PasswordAuth:
    """Answer with a user's name and password; `pyvirhost.open` takes it as ``auth=``.

    Parameters
    ----------
    username, password : str, or callable that returns one
        A callable is asked each time a server asks.
    """

    def __init__(self, username: Answer, password: Answer) -> None:
        for name, answer in (("username", username), ("password", password)):
            if not isinstance(answer, str) and not callable(answer):
                raise TypeError(
                    f"{name} must be a str or a callable, not {type(answer).__name__}")
        self._username = username
        self._password = password

    def __repr__(self) -> str:
        return "<PasswordAuth>"

    def __call__(self, credentials: list[Credential]) -> list[str | None]:
        """Return the name and the password where they are asked for, and the defaults."""
        return [self._answer(credential) for credential in credentials]

    def _answer(self, credential: Credential) -> str | None:
        if credential.type in NAMES:
            return value(self._username)
        if credential.type in SECRETS:
            return value(self._password)
        return credential.default


def value(answer: Answer) -> str:
    """Return an answer, asking for it where it is a callable."""
    return answer if isinstance(answer, str) else answer()

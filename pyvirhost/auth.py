"""Credentials that servers ask for while a connection is opened, and ready-made answers."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pyvirhost.constants import CredentialType


class Credential(NamedTuple):
    """A credential that a server asks for."""

    type: CredentialType | int
    """What is asked for; a plain int if it is newer than this package."""
    prompt: str | None
    """What to show a person."""
    challenge: str | None
    """What else to show, such as the host's name."""
    default: str | None
    """The answer to use if none is given."""


Authenticator = Callable[[list[Credential]], Iterable[str | None] | None]
Answer = str | Callable[[], str]


class Prompts:
    """libvirt's own prompts on the terminal, which `DEFAULT_AUTH` stands for."""

    def __repr__(self) -> str:
        return "pyvirhost.DEFAULT_AUTH"

    def __call__(self, credentials: list[Credential]) -> None:
        """Decline: only libvirt itself can prompt."""


DEFAULT_AUTH = Prompts()
NAMES = (CredentialType.USERNAME, CredentialType.AUTHNAME,
         CredentialType.ECHOPROMPT)
SECRETS = (CredentialType.PASSPHRASE, CredentialType.NOECHOPROMPT)


class PasswordAuth:
    """Answer with a user name and a password: ``pyvirhost.open(auth=PasswordAuth(...))``.

    Parameters
    ----------
    username, password : str, or callable that returns one
        A callable is called each time a server asks.
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
        """Return the name or password for each credential that asks for it, else its default."""
        return [self._answer(credential) for credential in credentials]

    def _answer(self, credential: Credential) -> str | None:
        if credential.type in NAMES:
            return value(self._username)
        if credential.type in SECRETS:
            return value(self._password)
        return credential.default


def value(answer: Answer) -> str:
    """Return an answer, calling it if it is callable."""
    return answer if isinstance(answer, str) else answer()

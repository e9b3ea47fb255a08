"""Questions to the person at the terminal: for consent, and for credentials."""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvirhost.cli.output import fail, on_terminal, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyvirhost
    from pyvirhost.poll.host import Host


def agreed(question: str, hosts: "Sequence[Host]") -> bool:
    """Ask for consent on the terminal and return whether the answer is yes."""
    whom = ", ".join(host.uri or "the default host" for host in hosts[:3])
    if len(hosts) > 3:
        whom += f" and {len(hosts) - 3} more"
    if not on_terminal(sys.stdin):
        fail("no terminal to ask on; use --yes")
        return False
    if asked(f"{question} ({whom})? [y/N] ").strip().lower() in ("y", "yes"):
        return True
    fail("nothing was done")
    return False


def ask_person(credentials: "list[pyvirhost.Credential]") -> list[str]:
    """Ask on the terminal for the credentials that a server requests."""
    from getpass import getpass

    from pyvirhost.auth import SECRETS
    from pyvirhost.cli.text import printable

    answers: list[str] = []
    for credential in credentials:
        prompt = f"{(credential.prompt or 'Answer').rstrip(': ')}: "
        if credential.type in SECRETS:
            answers.append(getpass(printable(prompt)))
        else:
            answers.append(asked(prompt).rstrip("\n") or credential.default or "")
    return answers


def decline(credentials: "list[pyvirhost.Credential]") -> None:
    """Give no answer, and leave it to libvirt's authentication file."""


def asked(prompt: str) -> str:
    """Return the line that a person types at the terminal."""
    say(prompt, end="")
    # Not through sys.stdin: a thread that still waits for it when the process ends, after a host's
    # timeout, would make Python abort.
    with suppress(OSError):  # the terminal is gone
        return os.read(sys.stdin.fileno(), 4096).decode(sys.stdin.encoding, "replace")
    return ""

"""What a command is: how it reads a host, and what it makes of that."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyvirhost import Connection
    from pyvirhost.cli.sweep import Sweep
    from pyvirhost.cli.text import Section
    from pyvirhost.poll.host import Host
    from pyvirhost.poll.link import Answer

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser
Row = Mapping[str, str]

HOST, CPUS, MEMORY, LIVE, CHANGE = (
    "About the host", "CPUs", "Memory", "Many hosts, until stopped", "Changing the host")
"""The groups of the help."""


class Command(NamedTuple):
    """What one command is: how it reads a host, and `rows` or `text` to show that."""

    name: str
    group: str
    help: str
    read: Callable[["Connection", Arguments], Any] = lambda connection, arguments: {}
    """Return JSON-ready data, always a dict."""
    rows: Callable[[Any], Row | Sequence[Row]] | None = None
    """Make a row of text from the data, by column, or several of them."""
    text: Callable[[Any], str] | None = None
    """Make text of several lines, in place of `rows`."""
    sections: Callable[[Any], Sequence["Section"]] | None = None
    """Show a single host, in place of `rows`."""
    arguments: Callable[[Parser], object] = lambda parser: None
    check: Callable[[Arguments, Sequence["Host"]], str | None] = lambda arguments, hosts: None
    """Say what is wrong with arguments that are right on their own."""
    examples: Sequence[str] = ()
    writes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether a read-only connection won't do, as libvirt sees it."""
    question: Callable[[Arguments], str | None] = lambda arguments: None
    """What to ask a person first."""
    changes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether the host is another afterwards, so that repeating it is no watching."""
    lasts: Callable[[Arguments], float] = lambda arguments: 0.0
    """How many seconds reading takes on purpose."""
    failed: Callable[[Any], bool] = lambda data: False
    """Whether an answer, though there is one, is a failure to the exit status."""
    ask: Callable[["Sweep", Arguments], "list[Answer[Any]]"] | None = None
    """Ask the hosts in another way than each on its own."""
    joins: Callable[[Arguments], bool] = lambda arguments: False
    """Whether all hosts have one answer together."""
    run: Callable[[Sequence["Host"], Arguments], int] | None = None
    """Do all of it, and return the exit status."""

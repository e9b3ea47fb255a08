"""What a command is: how it reads a host, and how it shows the result."""

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
    """One command: how it reads a host, and `rows` or `text` to show the result."""

    name: str
    group: str
    help: str
    read: Callable[["Connection", Arguments], Any] = lambda connection, arguments: {}
    """Return JSON-ready data, always a dict."""
    rows: Callable[[Any], Row | Sequence[Row]] | None = None
    """Make one or more rows of text from the data, by column."""
    text: Callable[[Any], str] | None = None
    """Make several lines of text, instead of `rows`."""
    sections: Callable[[Any], Sequence["Section"]] | None = None
    """Show a single host, instead of `rows`."""
    arguments: Callable[[Parser], object] = lambda parser: None
    check: Callable[[Arguments, Sequence["Host"]], str | None] = lambda arguments, hosts: None
    """Say what is wrong with arguments that are each valid on their own."""
    examples: Sequence[str] = ()
    writes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether libvirt refuses this to a read-only connection."""
    question: Callable[[Arguments], str | None] = lambda arguments: None
    """What to ask for consent to first."""
    changes: Callable[[Arguments], bool] = lambda arguments: False
    """Whether it changes the host, so that it must not be repeated by --watch."""
    lasts: Callable[[Arguments], float] = lambda arguments: 0.0
    """How many seconds reading waits on purpose."""
    failed: Callable[[Any], bool] = lambda data: False
    """Whether an answer counts as a failure in the exit status."""
    ask: Callable[["Sweep", Arguments], "list[Answer[Any]]"] | None = None
    """Ask the hosts other than each on its own."""
    joins: Callable[[Arguments], bool] = lambda arguments: False
    """Whether all hosts give one joint answer."""
    run: Callable[[Sequence["Host"], Arguments], int] | None = None
    """Do everything, and return the exit status."""

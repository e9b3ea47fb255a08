"""The command ``pyvirhost``."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirhost.cli.commands import COMMANDS
from pyvirhost.cli.commands.command import Command
from pyvirhost.cli.ending import in_order
from pyvirhost.cli.options import hosts_of, is_file_given
from pyvirhost.cli.output import (
    HOST_FAILED,
    WRONG_COMMAND_LINE,
    PrintingError,
    fail,
    fill_standard_streams,
    on_terminal,
    write,
)
from pyvirhost.cli.parser import arguments_of
from pyvirhost.cli.prompts import agreed, ask_person, decline
from pyvirhost.cli.show import show
from pyvirhost.cli.sweep import Sweep, tell

if TYPE_CHECKING:
    from pyvirhost.poll.host import Host

DEFAULT = "report"
LONGEST_SLEEP = 1e9
"""In seconds; the system rejects a time that is too far away to count."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after the command's name; by default the process's own.

    Returns
    -------
    int
        0; 1 if a host failed; 2 if hosts or consent are missing. Every failure is one line on
        standard error or, with several hosts, the host's row.

    Raises
    ------
    SystemExit
        With status 2 if the arguments are invalid, 0 after ``--help`` and ``--version``.
    """
    fill_standard_streams()
    return in_order(lambda: answered(sys.argv[1:] if argv is None else argv))


def answered(words: Sequence[str]) -> int:
    """Run the command and return its exit status, whatever happens."""
    try:
        return run(arguments_of(words))
    except PrintingError as error:
        return error.status
    except (RuntimeError, MemoryError) as error:  # no thread, or no memory, is left
        return fail(str(error) or type(error).__name__)


def run(arguments: argparse.Namespace) -> int:
    """Run a command and return the exit status."""
    command = COMMANDS[arguments.command or DEFAULT]
    try:
        hosts = hosts_of(arguments)
    except ValueError as error:
        return fail(str(error), WRONG_COMMAND_LINE)
    except ImportError as error:  # libvirt is missing
        return fail(str(error))
    wrong = command.check(arguments, hosts)
    if arguments.watch is not None and command.changes(arguments):
        wrong = f"--watch is for readings, and {command.name} changes the host"
    if wrong:
        return fail(wrong, WRONG_COMMAND_LINE)
    hosts = [opened_for(command, host, arguments, alone=len(hosts) == 1) for host in hosts]
    if len(hosts) > 1:
        from pyvirhost.poll.descriptors import raise_descriptor_limit

        raise_descriptor_limit()
    if command.run is not None:
        return command.run(hosts, arguments)
    question = command.question(arguments)
    if question is not None and not arguments.yes and not agreed(question, hosts):
        return WRONG_COMMAND_LINE
    return sweep(command, hosts, arguments)


def opened_for(command: Command, host: "Host", arguments: argparse.Namespace, *, alone: bool
               ) -> "Host":
    """Return a host as a command opens it."""
    # Password prompts from several hosts at once would be confusing.
    asks = alone and command.run is None and on_terminal(sys.stdin)
    timeout = host.timeout and host.timeout + command.lasts(arguments)
    return replace(host, readonly=host.readonly or not command.writes(arguments), timeout=timeout,
                   auth=ask_person if asks else decline)


def sweep(command: Command, hosts: "Sequence[Host]", arguments: argparse.Namespace) -> int:
    """Ask all hosts, repeatedly with --watch, and return the exit status."""
    from pyvirhost.poll.fleet import Fleet

    fleet = Fleet(hosts, workers=arguments.parallel, max_connects=arguments.parallel,
                  keeps=arguments.watch is not None)
    asked = Sweep(fleet, on_answer=tell if arguments.verbose else None)
    start = time.monotonic()
    while True:
        if arguments.watch is not None and not arguments.json:
            write(time.strftime("%Y-%m-%d %H:%M:%S"))
        status = once(command, asked, arguments)
        if arguments.watch is None:
            # An orderly end: no signal has come, and nobody waits for another answer.
            fleet.close()
            return status
        if not arguments.json:
            write("")
        # Rounds keep to their schedule; missed ones are skipped.
        rest = arguments.watch - (time.monotonic() - start) % arguments.watch
        time.sleep(min(rest, LONGEST_SLEEP))


def once(command: Command, asked: Sweep, arguments: argparse.Namespace) -> int:
    """Ask all hosts, print what they say and return the exit status."""
    if command.ask is not None:
        answers = command.ask(asked, arguments)
    else:
        answers = asked.ask(lambda connection: command.read(connection, arguments))
    several = len(asked.hosts) > 1
    try:
        failed = show(command, answers, arguments, several=several,
                      listed=several or is_file_given(arguments))
    except ImportError as error:
        return fail(f"{error}; for text: pip install 'pyvirhost[cli]', or use --json")
    return HOST_FAILED if failed else 0

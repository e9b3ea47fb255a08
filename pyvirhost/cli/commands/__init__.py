"""The table of commands, with a module for each group in the help and one for comparing CPUs.

A command is a function that reads JSON-ready data, in bytes and seconds, a function that makes rows
of text from that data, and an entry in its module's `COMMANDS`.
"""

from pyvirhost.cli.commands import change, compare, cpus, host, live, memory
from pyvirhost.cli.commands.command import Command

COMMANDS: dict[str, Command] = {
    command.name: command for commands in (
        host.COMMANDS, cpus.COMMANDS, compare.COMMANDS, memory.COMMANDS, live.COMMANDS,
        change.COMMANDS) for command in commands}
"""All commands by name, in the order of the help."""

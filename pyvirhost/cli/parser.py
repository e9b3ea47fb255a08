"""The parser of the command line, its help, and the completion for shells."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import pyvirhost
from pyvirhost.cli.commands import COMMANDS
from pyvirhost.cli.commands.command import Command
from pyvirhost.cli.options import common_options
from pyvirhost.cli.output import WRONG_COMMAND_LINE, fail, write

DESCRIPTION = """\
Ask libvirt hosts what they are, have and do: virsh's host commands, for one host or many at once,
as text or as JSON in bytes and seconds."""
EPILOG = """\
examples:
  pyvirhost                                     report on the host that libvirt chooses
  pyvirhost -c qemu:///system nodeinfo          one host
  pyvirhost -c URI -c URI freecell --all        several hosts: a table with a row for each
  pyvirhost --hosts fleet.toml nodememstats --json
  pyvirhost nodecpustats --percent --watch 5    again every 5 seconds, until Ctrl-C

hosts file:
  [hosts]
  alpha = "qemu+tls://alpha/system"
  beta = { uri = "qemu+ssh://root@beta/system", readonly = true, keepalive = "5:3", timeout = 10 }

exit status:
  0    success
  1    a host failed, or in cpu-compare can't provide the CPU; the other hosts' answers are printed
  2    the command line or a hosts file is wrong, or consent was not given
  130  Ctrl-C, which also ends --watch: the process kills itself with SIGINT

environment:
  LIBVIRT_DEFAULT_URI  the host to use without --connect and --hosts
  NO_COLOR             no colours, even on a terminal"""
SHELLS = ("bash", "zsh", "fish", "tcsh")


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with room for the longest options and commands."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line, and prints help on standard output or not at all."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and end with status 2."""
        fail(f"{message}; see {self.prog} --help", WRONG_COMMAND_LINE)
        raise SystemExit(WRONG_COMMAND_LINE)

    def _print_message(self, message: str, file: object = None) -> None:
        # argparse falls back to standard error if there is no standard output, and says nothing
        # about a full disk.
        write(message.rstrip("\n"))


class MainParser(Parser):
    """The top-level parser, whose help lists the commands in groups."""

    options: Iterable[argparse.Action] = ()

    def format_help(self) -> str:
        """Return the help."""
        formatter = self.formatter_class(prog=self.prog)
        formatter.add_usage(self.usage, (), ())
        formatter.add_text(self.description)
        for group in dict.fromkeys(command.group for command in COMMANDS.values()):
            formatter.start_section(group)
            formatter.add_arguments([
                argparse.Action((), command.name, metavar=command.name, help=command.help)
                for command in COMMANDS.values() if command.group == group])
            formatter.end_section()
        formatter.start_section("Options, before or after the command")
        formatter.add_arguments(self.options)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


class PrintCompletion(argparse.Action):
    """Print a shell's completion; only this needs shtab."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: Any, option_string: str | None = None) -> None:
        """Print it and exit."""
        try:
            import shtab
        except ImportError as error:
            raise SystemExit(fail(f"{error}: pip install 'pyvirhost[cli]'")) from None
        write(shtab.complete(parser_of(COMMANDS.values()), values))
        raise SystemExit(0)


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments that the words of a command line give.

    Raises
    ------
    SystemExit
        They are wrong, or asked for help, which was printed.
    PrintingError
        They asked for help, which could not be printed.
    """
    # Making parsers for all commands would take longer than most commands take.
    named = [COMMANDS[word] for word in words if word in COMMANDS]
    return parser_of(dict.fromkeys(named) or COMMANDS.values()).parse_args(words)


def parser_of(commands: Iterable[Command]) -> argparse.ArgumentParser:
    """Return a parser that knows these commands."""
    result = MainParser(
        prog="pyvirhost", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        usage="pyvirhost [OPTION...] [COMMAND [ARGUMENT...]]", formatter_class=Help)
    result.options = [
        *common_options(result, "before"),
        result.add_argument("--print-completion", action=PrintCompletion, metavar="SHELL",
                            choices=SHELLS, help=f"print the completion for {', '.join(SHELLS)}"),
        result.add_argument("--version", action="version", help="print the version",
                            version=f"%(prog)s {pyvirhost.__version__}"),
    ]
    parsers = result.add_subparsers(dest="command", metavar="COMMAND", prog="pyvirhost",
                                    parser_class=Parser, help="what to ask")
    for command in commands:
        examples = "\n".join(f"  pyvirhost {example}" for example in command.examples)
        one = parsers.add_parser(
            command.name, help=command.help, description=sentence(command.help),
            epilog=examples and f"examples:\n{examples}", allow_abbrev=False,
            formatter_class=Help)
        command.arguments(one)
        common_options(one.add_argument_group("options of every command"), "after")
    return result


def sentence(text: str) -> str:
    """Return a text with an initial capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."

"""The command ``pyvirhost``: its arguments, and how the answers are printed."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, NoReturn

import pyvirhost
from pyvirhost.commands import COMMANDS, WORDS, Command, Row, positive, seconds
from pyvirhost.fleet import PARALLEL, Answer, Fleet, Session
from pyvirhost.hosts import (
    KEEPALIVE,
    Host,
    HostsError,
    check_names,
    hosts_of_file,
    hosts_of_uris,
    keepalive_value,
)
from pyvirhost.text import Problem, Section, Whole, encodable, print_sections, printable
from pyvirhost.values import error_values

HOST_FAILED = 1
WRONG_COMMAND_LINE = 2
DEFAULT = "report"

DESCRIPTION = """\
Ask libvirt hosts what they are, have and do: virsh's host commands, for one host or for many at
once, as text or as JSON in bytes and seconds."""
EXAMPLES = """\
examples:
  pyvirhost                                     report on the host that libvirt chooses
  pyvirhost -c qemu:///system nodeinfo          one host
  pyvirhost -c URI -c URI freecell --all        a table with a row for each of several hosts
  pyvirhost --hosts fleet.toml nodememstats --json
  pyvirhost nodecpustats --percent --watch 5    again every 5 seconds, until Ctrl-C

hosts file:
  [hosts]
  alpha = "qemu+tls://alpha/system"
  beta = { uri = "qemu+ssh://root@beta/system", readonly = true, keepalive = "5:3", timeout = 10 }

exit status:
  0    all went well
  1    a host failed, or with cpu-compare can't be that CPU; others are still answered for
  2    the command line or a hosts file is wrong, or consent was not given
  130  Ctrl-C, which is also how --watch ends: the process ends itself by SIGINT

environment:
  LIBVIRT_DEFAULT_URI  the host without --connect and --hosts
  NO_COLOR             no colours on a terminal either"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after the command's name; by default those of the process.

    Returns
    -------
    int
        0; 1 where a host failed; 2 where hosts or consent are missing. Every failure is one line
        on standard error, or with several hosts the host's row.

    Raises
    ------
    SystemExit
        With status 2 where the arguments make no sense, 0 after ``--help`` and ``--version``.
    """
    terminal = TerminalSettings()
    try:
        arguments = parser().parse_args(argv)
        return run(COMMANDS[arguments.command or DEFAULT], arguments)
    except PrintingError as error:
        return error.status
    except KeyboardInterrupt:
        # Threads may be waiting for hosts, which only the end of the process ends. Ended by the
        # signal itself it tells a shell, which stops a script and calls that status 130.
        terminal.restore()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise


def run(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command and return the exit status."""
    try:
        hosts = hosts_of(arguments)
    except HostsError as error:
        return fail(str(error), WRONG_COMMAND_LINE)
    wrong = command.check(arguments, hosts)
    if arguments.watch is not None and command.changes(arguments):
        wrong = f"--watch is for readings, and {command.name} changes the host"
    if wrong:
        return fail(wrong, WRONG_COMMAND_LINE)
    try:
        pyvirhost.lib_version()
    except ImportError as error:
        return fail(str(error))
    if command.run is not None:
        return command.run(hosts, arguments)
    question = command.question(arguments)
    if question is not None and not arguments.yes and not agreed(question, hosts):
        return WRONG_COMMAND_LINE

    readonly = arguments.readonly or not command.writes(arguments)
    # Questions for a password from several hosts at once would be a riddle.
    auth = ask_person if len(hosts) == 1 and sys.stdin and sys.stdin.isatty() else decline
    fleet = Fleet(
        [Session(host, readonly=readonly, stays_open=arguments.watch is not None, auth=auth)
         for host in hosts],
        parallel=arguments.parallel, patience=command.lasts(arguments),
        told=tell if arguments.verbose else lambda answer: None)
    return watch(command, fleet, arguments) if arguments.watch is not None else (
        once(command, fleet, arguments))


def once(command: Command, fleet: Fleet, arguments: argparse.Namespace) -> int:
    """Ask all hosts, print what they say and return the exit status."""
    if command.ask is not None:
        answers = command.ask(fleet, arguments)
    else:
        answers = fleet.ask(lambda connection: command.read(connection, arguments))
    several = len(fleet.sessions) > 1
    try:
        if several and not command.joins(arguments):
            print_several(command, answers, arguments)
        else:
            print_one(command, answers, arguments, named=several)
    except ImportError as error:
        return fail(f"{error}; for text: pip install 'pyvirhost[cli]', or use --json")
    return HOST_FAILED if any(
        answer.error or command.failed(answer.result) for answer in answers) else 0


def watch(command: Command, fleet: Fleet, arguments: argparse.Namespace) -> int:
    """Ask again and again, and return the exit status of a round that nothing can follow."""
    start = time.monotonic()
    while True:
        if not arguments.json:
            write(time.strftime("%Y-%m-%d %H:%M:%S"))
        once(command, fleet, arguments)
        if not arguments.json:
            write("")
        # Rounds keep to their times, and those that are missed are left out.
        rest = arguments.watch - (time.monotonic() - start) % arguments.watch
        time.sleep(rest)


# ---- arguments ----------------------------------------------------------------------------------

class Help(argparse.RawDescriptionHelpFormatter):
    """Help with room for the longest of the options and commands."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class OneLineParser(argparse.ArgumentParser):
    """A parser of which every complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and end with status 2."""
        fail(f"{message}; see {self.prog} --help", WRONG_COMMAND_LINE)
        raise SystemExit(WRONG_COMMAND_LINE)


class MainParser(OneLineParser):
    """The parser of all, whose help has the commands in groups."""

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


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    result = MainParser(
        prog="pyvirhost", description=DESCRIPTION, epilog=EXAMPLES, allow_abbrev=False,
        usage="pyvirhost [OPTION...] [COMMAND [ARGUMENT...]]",
        formatter_class=Help)
    result.options = [
        *common_options(result, "before"),
        result.add_argument("--print-completion", action=PrintCompletion, metavar="SHELL",
                            choices=SHELLS, help=f"print the completion for {', '.join(SHELLS)}"),
        result.add_argument("--version", action="version", help="print the version",
                            version=f"%(prog)s {pyvirhost.__version__}"),
    ]
    commands = result.add_subparsers(
        dest="command", metavar="COMMAND", prog="pyvirhost", parser_class=OneLineParser,
        help="what to ask")
    for command in COMMANDS.values():
        examples = "\n".join(f"  pyvirhost {example}" for example in command.examples)
        one = commands.add_parser(
            command.name, help=command.help, description=sentence(command.help),
            epilog=examples and f"examples:\n{examples}", allow_abbrev=False,
            formatter_class=Help)
        command.arguments(one)
        common_options(one.add_argument_group("options of every command"), "after")
    return result


def common_options(group: Any, where: str) -> list[argparse.Action]:
    """Add the options that stand before or after the command and return them.

    What stands after the command overrides what stands before it, and adds to its hosts.
    """
    def default(value: object) -> object:
        return value if where == "before" else argparse.SUPPRESS

    return [
        group.add_argument(
            "-c", "--connect", metavar="URI", action="append", dest=f"connect_{where}",
            help="a host, such as qemu:///system; may be repeated; by default libvirt chooses"),
        group.add_argument(
            "--hosts", metavar="FILE", action="append", dest=f"hosts_{where}",
            help="hosts by their names, in TOML, see pyvirhost --help" if where == "after" else
            "hosts by their names, in TOML, see below; may be repeated"),
        group.add_argument(
            "--json", action="store_true", default=default(False),
            help="print JSON, in bytes and seconds, in place of text: an object for one host, a "
            "list of them for several"),
        group.add_argument(
            "--watch", metavar="SECONDS", type=seconds, default=default(None),
            help="ask again every so many seconds; with --json each time one line"),
        group.add_argument(
            "--readonly", action="store_true", default=default(False),
            help="never open a connection that may change the host"),
        group.add_argument(
            "--keepalive", metavar="INTERVAL:COUNT", type=keepalive, default=default(KEEPALIVE),
            help="how many seconds of silence to answer with a question, and after how many of "
            "these a server is lost; or off (default: {}:{})".format(*KEEPALIVE)),
        group.add_argument(
            "--timeout", metavar="SECONDS", type=seconds, default=default(None),
            help="give up a host that takes longer"),
        group.add_argument(
            "--parallel", metavar="N", type=positive, default=default(PARALLEL),
            help=f"how many hosts to ask at a time (default: {PARALLEL})"),
        group.add_argument(
            "--verbose", action="store_true", default=default(False),
            help="tell on standard error how long each host took, and all of its errors"),
    ]


def hosts_of(arguments: argparse.Namespace) -> list[Host]:
    """Return the hosts that the arguments name."""
    options = {"keepalive": arguments.keepalive, "timeout": arguments.timeout}
    hosts: list[Host] = []
    for where in ("before", "after"):
        hosts += hosts_of_uris(getattr(arguments, f"connect_{where}", None) or (), **options)
        for path in getattr(arguments, f"hosts_{where}", None) or ():
            hosts += hosts_of_file(path, **options)
    check_names(hosts)
    return hosts or [Host("default", None, **options)]


def keepalive(text: str) -> tuple[int, int] | None:
    """Return the argument of ``--keepalive``."""
    try:
        return keepalive_value(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None


def sentence(text: str) -> str:
    """Return a text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


SHELLS = ("bash", "zsh", "fish", "tcsh")


class PrintCompletion(argparse.Action):
    """Print a shell's completion, for which only now shtab is needed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: Any, option_string: str | None = None) -> None:
        """Print it and end."""
        try:
            import shtab
        except ImportError as error:
            raise SystemExit(fail(f"{error}: pip install 'pyvirhost[cli]'")) from None
        try:
            write(shtab.complete(parser, values))
        except PrintingError as error:
            raise SystemExit(error.status) from None
        raise SystemExit(0)


# ---- people -------------------------------------------------------------------------------------

class TerminalSettings:
    """What the terminal does with keys, which asking for a password changes for a moment."""

    def __init__(self) -> None:
        import termios

        self.restore: Callable[[], object] = lambda: None
        if sys.stdin and sys.stdin.isatty():
            fd = sys.stdin.fileno()
            settings = termios.tcgetattr(fd)
            self.restore = lambda: termios.tcsetattr(fd, termios.TCSADRAIN, settings)


def agreed(question: str, hosts: Sequence[Host]) -> bool:
    """Ask a person on the terminal and return whether the answer is yes."""
    whom = ", ".join(host.uri or "the default host" for host in hosts[:3])
    if len(hosts) > 3:
        whom += f" and {len(hosts) - 3} more"
    if not (sys.stdin and sys.stdin.isatty()):
        fail("there is no terminal to ask on, so say --yes")
        return False
    print(printable(f"{question} ({whom})? [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    fail("nothing was done")
    return False


def ask_person(credentials: list[pyvirhost.Credential]) -> list[str]:
    """Ask on the terminal for what a server wants to know."""
    from getpass import getpass

    from pyvirhost.auth import SECRETS

    answers: list[str] = []
    for credential in credentials:
        prompt = printable(f"{(credential.prompt or 'Answer').rstrip(': ')}: ")
        if credential.type in SECRETS:
            answers.append(getpass(prompt))
        else:
            print(prompt, end="", file=sys.stderr, flush=True)
            answers.append(sys.stdin.readline().rstrip("\n") or credential.default or "")
    return answers


def decline(credentials: list[pyvirhost.Credential]) -> None:
    """Have no answer but those in libvirt's own authentication file."""


# ---- printing -----------------------------------------------------------------------------------

class PrintingError(Exception):
    """Standard output takes no more; the exit status is in `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def write(text: str) -> None:
    """Print lines on standard output.

    Raises
    ------
    PrintingError
        It takes no more, which is said where it is not the reader's wish.
    """
    printing(lambda: print(encodable(text, sys.stdout), flush=True))


def printing(show: Callable[[], object]) -> None:
    """Call what prints on standard output, and raise `PrintingError` as `write` does."""
    try:
        show()
    except OSError as error:
        # Python flushes standard output again at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader such as head has what it wanted.
        raise PrintingError(0 if isinstance(error, BrokenPipeError) else fail(
            f"cannot print: {error.strerror}")) from None


def print_one(command: Command, answers: Sequence[Answer], arguments: argparse.Namespace, *,
              named: bool) -> None:
    """Print the answer of the only host, or that of all of them together."""
    for answer in answers:
        if answer.error:
            fail(f"{answer.host.name}: {answer.problem}" if named else answer.problem)
        if arguments.json and (answer.error is None or arguments.watch is not None):
            write_json(stamped(answer, arguments, named=False), arguments)
        elif answer.error:
            continue
        elif command.text:
            write(shown_lines(command.text(answer.result)))
        elif command.sections:
            show_sections(command.sections(answer.result))
        elif command.rows:
            rows = command.rows(answer.result)
            if len(titles_of(as_rows(rows))) == 1:
                write("\n".join(printable(cell) for row in as_rows(rows) for cell in row.values()))
            elif isinstance(rows, Mapping):
                show_sections([Section(pairs=list(rows.items()))])
            else:
                show_table(rows)


def print_several(command: Command, answers: Sequence[Answer], arguments: argparse.Namespace
                  ) -> None:
    """Print the answers of several hosts, and what failed among them."""
    if arguments.json:
        write_json([stamped(answer, arguments, named=True) for answer in answers], arguments)
    elif command.text:
        for answer in answers:
            if answer.error:
                fail(f"{answer.host.name}: {answer.problem}")
            else:
                write(f"{printable(answer.host.name)}:")
                write(shown_lines(command.text(answer.result)))
    elif command.rows:
        rows: list[dict[str, str]] = []
        for answer in answers:
            host = {"Host": answer.host.name}
            if answer.error:
                rows.append({**host, "Error": Problem(answer.problem)})
            else:
                rows += [{**host, **row} for row in as_rows(command.rows(answer.result))]
        show_table(rows)


def stamped(answer: Answer, arguments: argparse.Namespace, *, named: bool) -> dict[str, Any]:
    """Return an answer as JSON has it: of several hosts with its name, when watching the time."""
    stamp: dict[str, Any] = {"host": answer.host.name} if named else {}
    if arguments.watch is not None:
        stamp["started_at"] = round(answer.started_at, 3)
    if answer.error is not None:
        return stamp | {"error": error_values(answer.error, answer.problem)}
    result: dict[str, Any] = answer.result
    # Some names in it are the server's choice, which must not speak for another host.
    return stamp | result | stamp


def write_json(value: Any, arguments: argparse.Namespace) -> None:
    """Print JSON, when watching on one line."""
    write(json.dumps(value, indent=None if arguments.watch is not None else 2, allow_nan=False))


def as_rows(rows: Row | Sequence[Row]) -> Sequence[Row]:
    """Return rows as a sequence, also where there is one."""
    return [rows] if isinstance(rows, Mapping) else rows


def titles_of(rows: Sequence[Row]) -> list[str]:
    """Return the titles of all columns, that of the errors as the last."""
    return sorted(dict.fromkeys(title for row in rows for title in row), key="Error".__eq__)


def show_table(rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    titles = titles_of(rows)
    show_sections([Section(
        header=titles, rows=[[row.get(title, "") for title in titles] for row in rows],
        words=WORDS)])


def show_sections(sections: Iterable[Section]) -> None:
    """Print sections on standard output."""
    printing(lambda: print_sections(sections))


def shown_lines(text: str) -> str:
    """Return lines as they are, or as a terminal may have them."""
    lines = text.rstrip("\n").split("\n")
    if on_terminal(sys.stdout):
        lines = [printable(Whole(line.replace("\t", "    "))) for line in lines]
    return "\n".join(lines)


def on_terminal(file: IO[str] | None) -> bool:
    """Return whether a file is a terminal."""
    return file is not None and file.isatty()


def tell(answer: Answer) -> None:
    """Say on standard error how a host was doing."""
    text = f"{answer.host.name}: {answer.duration * 1000:.1f} ms"
    error = answer.error
    if isinstance(error, pyvirhost.LibvirtError):
        text += f"; {type(error).__name__} of {error.function}, code {error.code!r}, domain " \
                f"{error.domain!r}: {error.message}"
    elif error:
        text += f"; {type(error).__name__}: {error}"
    print(printable(text), file=sys.stderr, flush=True)


def fail(message: str, status: int = HOST_FAILED) -> int:
    """Print why the command failed, on one line, and return its exit status."""
    print("pyvirhost:", printable(" ".join(message.split())), file=sys.stderr)
    return status

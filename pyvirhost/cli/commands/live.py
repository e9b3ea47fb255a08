"""Commands that run until they are stopped."""

from typing import TYPE_CHECKING

from pyvirhost.cli.arguments import positive, seconds
from pyvirhost.cli.commands.command import LIVE, Arguments, Command, Parser
from pyvirhost.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirhost.poll.host import Host


def run_poll(hosts: "Sequence[Host]", arguments: Arguments) -> int:
    """Run poll, which is loaded only for this."""
    from pyvirhost.cli.poll import poll

    return poll(hosts, arguments)


def interval_argument(parser: Parser) -> None:
    """Add how often to read each host."""
    parser.add_argument(
        "--interval", type=seconds, default=5.0, metavar="SECONDS",
        help="read each host this often (default: 5); a host that takes longer fails, unless "
        "--timeout says otherwise")


def poll_arguments(parser: Parser) -> None:
    """Add the arguments of poll."""
    interval_argument(parser)
    parser.add_argument(
        "--fields", type=lambda text: text.split(","), metavar="FIELD,...",
        help="the HostSnapshot fields to read; by default those that a daemon answers even if its "
        "ordinary workers are stuck")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--count", type=positive, metavar="N",
                     help="stop after N samples of each host")
    end.add_argument("--once", action="store_const", const=1, dest="count",
                     help="stop after one sample of each host, asking all of them at once")


def run_top(hosts: "Sequence[Host]", arguments: Arguments) -> int:
    """Run top, or say what is missing."""
    try:
        from pyvirhost.cli.top.app import top
    except ImportError as error:
        return fail(f"{error}: pip install 'pyvirhost[top]'")
    return top(hosts, arguments)


def check_live(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say that what runs continuously is not to be repeated."""
    if arguments.watch is not None:
        return f"{arguments.command} repeats by itself: use --interval instead of --watch"
    return None


def check_top(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say that a screen can be neither repeated nor JSON."""
    if arguments.json:
        return "top is for people: use poll for JSON"
    return check_live(arguments, hosts)


COMMANDS = [
    Command(
        name="poll", group=LIVE, help="a line of JSON for each sample of each host, for programs",
        run=run_poll, arguments=poll_arguments, check=check_live,
        examples=("--hosts fleet.toml poll", "poll --interval 1 --fields cpu_stats,free_memory",
                  "--hosts fleet.toml poll --once"),
    ),
    Command(
        name="top", group=LIVE, help="a live table of all hosts that fills the terminal",
        run=run_top, arguments=interval_argument, check=check_top,
        examples=("--hosts fleet.toml top", "-c qemu:///system top --interval 1"),
    ),
]

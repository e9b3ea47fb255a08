"""Commands that go on until they are stopped."""

from typing import TYPE_CHECKING

from pyvirhost.cli.arguments import positive, seconds
from pyvirhost.cli.commands.command import LIVE, Arguments, Command, Parser
from pyvirhost.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirhost.poll.host import Host


def run_poll(hosts: "Sequence[Host]", arguments: Arguments) -> int:
    """Run poll, which is loaded for this only."""
    from pyvirhost.cli.poll import poll

    return poll(hosts, arguments)


def interval_argument(parser: Parser) -> None:
    """Add how often to read each host."""
    parser.add_argument(
        "--interval", type=seconds, default=5.0, metavar="SECONDS",
        help="how often each host is read (default: 5); a host that takes longer is late, unless "
        "--timeout says otherwise")


def poll_arguments(parser: Parser) -> None:
    """Add the arguments of poll."""
    interval_argument(parser)
    parser.add_argument(
        "--fields", type=lambda text: text.split(","), metavar="FIELD,...",
        help="what to read, by the names of HostSnapshot's fields; by default what a daemon "
        "answers even when its ordinary workers are stuck")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--count", type=positive, metavar="N",
                     help="end after N samples of each host")
    end.add_argument("--once", action="store_const", const=1, dest="count",
                     help="end after one of each host, all of them asked at once")


def run_top(hosts: "Sequence[Host]", arguments: Arguments) -> int:
    """Run top, or say what it lacks."""
    try:
        from pyvirhost.cli.top.app import top
    except ImportError as error:
        return fail(f"{error}: pip install 'pyvirhost[top]'")
    return top(hosts, arguments)


def check_live(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say that what goes on by itself is not to be repeated."""
    if arguments.watch is not None:
        return f"{arguments.command} goes on by itself: say --interval in place of --watch"
    return None


def check_top(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say that a screen is neither to be repeated nor JSON."""
    if arguments.json:
        return "top is for people: for JSON say poll in place of it"
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

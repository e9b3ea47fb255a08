"""The options that every command has, and the hosts that they name."""

import argparse
from typing import TYPE_CHECKING, Any

from pyvirhost.cli.arguments import keepalive, positive, seconds

if TYPE_CHECKING:
    from pyvirhost.poll.host import Host

PARALLEL = 32
"""How many hosts are asked at a time; with ssh, each takes a process."""


def common_options(group: Any, where: str) -> list[argparse.Action]:
    """Add the options that may come before or after the command and return them.

    Options after the command override those before it, and add to their hosts.
    """
    def default(value: object) -> object:
        return value if where == "before" else argparse.SUPPRESS

    return [
        group.add_argument(
            "-c", "--connect", metavar="URI", action="append", dest=f"connect_{where}",
            help="a host, such as qemu:///system; repeatable; by default libvirt chooses"),
        group.add_argument(
            "--hosts", metavar="FILE", action="append", dest=f"hosts_{where}",
            help="named hosts in TOML, see pyvirhost --help" if where == "after" else
            "named hosts in TOML, see below; repeatable"),
        group.add_argument(
            "--json", action="store_true", default=default(False),
            help="print JSON instead of text, in bytes and seconds: an object for one host, a list "
            "of objects for several or with --hosts"),
        group.add_argument(
            "--watch", metavar="SECONDS", type=seconds, default=default(None),
            help="ask again every SECONDS; with --json, print one line each time"),
        group.add_argument(
            "--readonly", action="store_true", default=default(False),
            help="never open a connection that may change the host"),
        group.add_argument(
            "--keepalive", metavar="INTERVAL:COUNT", type=keepalive, default=argparse.SUPPRESS,
            help="probe a server after INTERVAL seconds of silence, and consider it lost after "
            "COUNT unanswered probes; or off (default: the hosts file's, or 5:3)"),
        group.add_argument(
            "--timeout", metavar="SECONDS", type=seconds, default=argparse.SUPPRESS,
            help="give up on a host that takes longer (default: the hosts file's, or never)"),
        group.add_argument(
            "--parallel", metavar="N", type=positive, default=default(PARALLEL),
            help=f"how many hosts to ask at a time (default: {PARALLEL})"),
        group.add_argument(
            "--verbose", action="store_true", default=default(False),
            help="print on standard error how long each host took, and the details of its error"),
    ]


def is_file_given(arguments: argparse.Namespace) -> bool:
    """Return whether the arguments name hosts files."""
    return any(getattr(arguments, f"hosts_{where}", None) for where in ("before", "after"))


def hosts_of(arguments: argparse.Namespace) -> "list[Host]":
    """Return the hosts that the arguments name, read-only only if they or a file say so.

    Raises
    ------
    ValueError
        A hosts file or a URI is invalid, or two hosts share a name.
    """
    from pyvirhost import Host
    from pyvirhost.cli.hostsfile import check_names, hosts_of_file, hosts_of_uris

    # What is typed now is meant for now, and overrides the file's everyday settings.
    override = {name: value for name, value in vars(arguments).items()
                if name in ("keepalive", "timeout")}
    if arguments.readonly:
        override["readonly"] = True
    hosts: list[Host] = []
    for where in ("before", "after"):
        hosts += hosts_of_uris(getattr(arguments, f"connect_{where}", None) or (), **override)
        for path in getattr(arguments, f"hosts_{where}", None) or ():
            hosts += hosts_of_file(path, **override)
    check_names(hosts)
    return hosts or [Host(**{"name": "default", "readonly": False, **override})]

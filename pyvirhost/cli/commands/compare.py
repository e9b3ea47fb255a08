"""Commands that compare CPUs: what many have in common, and whether one can provide another."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyvirhost.cli.commands.command import CPUS, Arguments, Command, Parser
from pyvirhost.constants import BaselineCPUFlags, CompareCPUFlags
from pyvirhost.values import comparison_values

if TYPE_CHECKING:
    from pyvirhost import Connection
    from pyvirhost.cli.sweep import Sweep
    from pyvirhost.poll.host import Host
    from pyvirhost.poll.link import Answer

Ask = Callable[["Sweep", Arguments], "list[Answer[Any]]"]
CPU_PLACES = {
    "cpu": ".", "domain": "cpu", "capabilities": "host/cpu",
    "domainCapabilities": "cpu/mode[@name='host-model']",
}


def cpus_of_file(path: str) -> list[str]:
    """Return the CPUs in a file, or in standard input if its name is ``-``.

    As with virsh, these are any number of ``<cpu>`` elements, alone or in domains or capabilities,
    one after another.
    """
    from xml.etree import ElementTree

    from pyvirhost._xml import BoundError, read

    try:
        if path == "-":
            if sys.stdin is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None
    try:
        # To a parser, several documents, perhaps each with its declaration, are not XML.
        root = read(f"<all>{re.sub(r'<[?]xml [^<>]*[?]>', '', text)}</all>")
    except BoundError as error:
        raise argparse.ArgumentTypeError(f"{path} is {error}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} is not XML: {error}") from None
    found = []
    for element in root:
        place = CPU_PLACES.get(element.tag)
        for cpu in element.findall(place) if place else ():
            if cpu.tag == "mode":
                cpu.tag = "cpu"
                cpu.attrib.clear()
            cpu.tail = None
            found.append(ElementTree.tostring(cpu, encoding="unicode"))
    if not found:
        raise argparse.ArgumentTypeError(
            f"{path} has no <cpu>, alone, in a domain or in capabilities")
    return found


def read_own_cpu(connection: "Connection") -> str:
    """Return a host's own CPU as its capabilities describe it."""
    from xml.etree import ElementTree

    from pyvirhost._xml import parse

    cpu = parse(connection.capabilities(), "virConnectGetCapabilities").find("host/cpu")
    if cpu is None or cpu.find("model") is None:
        raise ValueError("the host's capabilities do not include its CPU model")
    cpu.tail = None
    return ElementTree.tostring(cpu, encoding="unicode")


def cpu_file_argument(parser: Parser, without: str) -> None:
    """Add the file with the CPUs."""
    parser.add_argument(
        "cpus", nargs="?", type=cpus_of_file, metavar="FILE",
        help=f"XML with CPUs, domains or capabilities, or - for standard input; {without}")


def hypervisor_arguments(parser: Parser) -> None:
    """Add the arguments that choose a hypervisor."""
    parser.add_argument("--virttype", metavar="TYPE", help="kind of domain, such as kvm or qemu")
    parser.add_argument("--emulator", metavar="PATH", help="the emulator binary on the host")
    parser.add_argument("--arch", help="the architecture, such as x86_64")
    parser.add_argument("--machine", metavar="TYPE", help="the machine type, such as q35")


def hypervisor(arguments: Arguments) -> dict[str, Any]:
    """Return the arguments that choose a hypervisor."""
    return {name: getattr(arguments, name) for name in ("emulator", "arch", "machine", "virttype")}


def baseline_arguments(parser: Parser) -> None:
    """Add the arguments of cpu-baseline."""
    cpu_file_argument(parser, "default: all the hosts' own CPUs")
    parser.add_argument("--features", action="store_true",
                        help="also list the features that the model implies")
    parser.add_argument("--migratable", action="store_true",
                        help="leave out features that block migration")


def hypervisor_baseline_arguments(parser: Parser) -> None:
    """Add the arguments of hypervisor-cpu-baseline."""
    baseline_arguments(parser)
    hypervisor_arguments(parser)


def baseline_flags(arguments: Arguments) -> int:
    """Return libvirt's flags for the arguments of cpu-baseline."""
    flags = 0
    if arguments.features:
        flags |= BaselineCPUFlags.EXPAND_FEATURES
    if arguments.migratable:
        flags |= BaselineCPUFlags.MIGRATABLE
    return flags


def read_baseline(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Have a host compute the CPU that all the given ones can provide."""
    return {"cpu": connection.baseline_cpu(arguments.cpus, baseline_flags(arguments))}


def read_hypervisor_baseline(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Have a host compute the same for its hypervisor."""
    return {"cpu": connection.baseline_hypervisor_cpu(
        arguments.cpus, **hypervisor(arguments), flags=baseline_flags(arguments))}


def ask_baseline(read: Callable[["Connection", Arguments], Any]) -> Ask:
    """Return a function that asks for a baseline of a file's CPUs, or of the hosts' own."""
    def ask(sweep: "Sweep", arguments: Arguments) -> "list[Answer[Any]]":
        if arguments.cpus is not None:
            return sweep.ask(lambda connection: read(connection, arguments))
        answers = sweep.ask(read_own_cpu)
        failed = [answer for answer in answers if answer.error]
        if failed:
            return failed  # a CPU for the hosts that answered may be too much for the others
        joined = argparse.Namespace(**{
            **vars(arguments), "cpus": [answer.result for answer in answers]})
        # libvirt computes it on a host; any will do.
        return sweep.ask(lambda connection: read(connection, joined), sweep.hosts[:1])
    return ask


def compare_arguments(parser: Parser) -> None:
    """Add the arguments of cpu-compare."""
    cpu_file_argument(parser, "default: the first host's own CPU")
    parser.add_argument("--error", action="store_true",
                        help="if the CPU is incompatible, say what the host lacks")
    parser.add_argument("--validate", action="store_true",
                        help="check the XML against libvirt's schema first")


def hypervisor_compare_arguments(parser: Parser) -> None:
    """Add the arguments of hypervisor-cpu-compare."""
    compare_arguments(parser)
    hypervisor_arguments(parser)


def check_compare(arguments: Arguments, hosts: "Sequence[Host]") -> str | None:
    """Say what is wrong with the arguments of cpu-compare."""
    if arguments.cpus is None and len(hosts) == 1:
        return "cpu-compare needs a FILE, or several hosts to compare with the first"
    if arguments.cpus is not None and len(arguments.cpus) != 1:
        return f"cpu-compare takes one CPU, but the file has {len(arguments.cpus)}"
    return None


def compare_flags(arguments: Arguments) -> int:
    """Return libvirt's flags for the arguments of cpu-compare."""
    flags = 0
    if arguments.error:
        flags |= CompareCPUFlags.FAIL_INCOMPATIBLE
    if arguments.validate:
        flags |= CompareCPUFlags.VALIDATE_XML
    return flags


def read_comparison(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Compare a host's CPU with the given one."""
    return comparison_values(connection.compare_cpu(arguments.cpus[0], compare_flags(arguments)))


def read_hypervisor_comparison(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Compare the CPU that a host's hypervisor can provide with the given one."""
    return comparison_values(connection.compare_hypervisor_cpu(
        arguments.cpus[0], **hypervisor(arguments), flags=compare_flags(arguments)))


def ask_comparison(read: Callable[["Connection", Arguments], Any]) -> Ask:
    """Return a function that compares the hosts' CPUs with a file's, or with the first host's."""
    def ask(sweep: "Sweep", arguments: Arguments) -> "list[Answer[Any]]":
        if arguments.cpus is not None:
            return sweep.ask(lambda connection: read(connection, arguments))
        first, = sweep.ask(read_own_cpu, sweep.hosts[:1])
        if first.error:
            return [first]
        joined = argparse.Namespace(**{**vars(arguments), "cpus": [first.result]})
        return sweep.ask(lambda connection: read(connection, joined))
    return ask


COMMANDS = [
    Command(
        name="cpu-baseline", group=CPUS, help="the CPU that all hosts, or all CPUs in a file, can "
        "provide", read=read_baseline, text=lambda data: data["cpu"], arguments=baseline_arguments,
        ask=ask_baseline(read_baseline), joins=lambda arguments: arguments.cpus is None,
        examples=("--hosts fleet.toml cpu-baseline --migratable", "cpu-baseline cpus.xml",
                  "-c qemu:///system capabilities | pyvirhost cpu-baseline -"),
    ),
    Command(
        name="cpu-compare", group=CPUS, help="whether hosts can provide a given CPU",
        read=read_comparison, arguments=compare_arguments, check=check_compare,
        rows=lambda data: {"CPU of the host": data["host_cpu"]},
        ask=ask_comparison(read_comparison),
        failed=lambda data: data["host_cpu"] not in ("identical", "superset"),
        examples=("cpu-compare guest.xml --error", "--hosts fleet.toml cpu-compare"),
    ),
    Command(
        name="hypervisor-cpu-baseline", group=CPUS,
        help="the CPU that the hypervisors of all hosts can provide",
        read=read_hypervisor_baseline, text=lambda data: data["cpu"],
        arguments=hypervisor_baseline_arguments,
        ask=ask_baseline(read_hypervisor_baseline), joins=lambda arguments: arguments.cpus is None,
        writes=lambda arguments: True,
    ),
    Command(
        name="hypervisor-cpu-compare", group=CPUS,
        help="whether the hypervisors of hosts can provide a given CPU",
        read=read_hypervisor_comparison, check=check_compare,
        arguments=hypervisor_compare_arguments,
        rows=lambda data: {"CPU of the host": data["host_cpu"]},
        ask=ask_comparison(read_hypervisor_comparison), writes=lambda arguments: True,
        failed=lambda data: data["host_cpu"] not in ("identical", "superset"),
    ),
]

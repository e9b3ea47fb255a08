"""Commands about the host itself."""

from typing import TYPE_CHECKING, Any

import pyvirhost
from pyvirhost.cli.commands.command import HOST, Arguments, Command, Row
from pyvirhost.cli.report import collect, sections
from pyvirhost.cli.text import NOT_SUPPORTED, UNKNOWN, size
from pyvirhost.values import parameter_values, with_errors, without_errors

if TYPE_CHECKING:
    from pyvirhost import Connection


def read_version(connection: "Connection", arguments: Arguments) -> dict[str, str]:
    """Read the versions of everything involved."""
    return {
        "pyvirhost_version": pyvirhost.__version__,
        "library_version": str(pyvirhost.lib_version()),
        "libvirt_version": str(connection.lib_version()),
        "driver": connection.type(),
        "hypervisor_version": str(connection.version()),
    }


def version_row(data: Any) -> Row:
    """Show versions."""
    return {
        "Driver": data["driver"],
        "Hypervisor version": data["hypervisor_version"],
        "libvirt of the host": data["libvirt_version"],
        "libvirt here": data["library_version"],
        "pyvirhost": data["pyvirhost_version"],
    }


def report_row(data: Any) -> Row:
    """Show what fits on a line of a whole report."""
    identity, node, cpu_map = data["identity"], data["node"] or {}, data["cpu_map"]
    free, memory = data["memory"]["free_bytes"], node.get("memory_bytes")
    return {
        "Hostname": identity["hostname"] or NOT_SUPPORTED,
        "Driver": identity["driver"] or NOT_SUPPORTED,
        "libvirt": identity["libvirt_version"] or NOT_SUPPORTED,
        "Model": node.get("model", NOT_SUPPORTED),
        "CPUs online": str(cpu_map["online"] if cpu_map else node.get("cpus", NOT_SUPPORTED)),
        "Cells": str(len(data["cells"])) if data["cells"] is not None else NOT_SUPPORTED,
        "Memory": size(memory) if memory is not None else NOT_SUPPORTED,
        "Free": size(free) if free is not None else NOT_SUPPORTED,
    }


def read_sev(connection: "Connection", arguments: Arguments) -> dict[str, Any]:
    """Read the host's AMD Secure Encrypted Virtualization parameters."""
    return with_errors(*parameter_values(connection.sev_info()))


def sev_row(data: Any) -> Row:
    """Show the SEV parameters."""
    return {name: UNKNOWN if value is None else str(value)
            for name, value in without_errors(data).items()}


COMMANDS = [
    Command(
        name="report", group=HOST, help="everything at a glance; the default command",
        read=lambda connection, arguments: collect(connection),
        rows=report_row, sections=lambda data: list(sections(data)),
    ),
    Command(
        name="hostname", group=HOST, help="the host's name",
        read=lambda connection, arguments: {"hostname": connection.hostname()},
        rows=lambda data: {"Hostname": data["hostname"]},
    ),
    Command(
        name="uri", group=HOST, help="the full URI that libvirt connected to",
        read=lambda connection, arguments: {"uri": connection.uri()},
        rows=lambda data: {"URI": data["uri"]},
    ),
    Command(
        name="version", group=HOST,
        help="versions of the hypervisor and of libvirt, there and here",
        read=read_version, rows=version_row,
    ),
    Command(
        name="capabilities", group=HOST, help="what the host and hypervisor can do, as XML",
        read=lambda connection, arguments: {"capabilities": connection.capabilities()},
        text=lambda data: data["capabilities"],
    ),
    Command(
        name="sysinfo", group=HOST, help="what the firmware says about the machine, as XML",
        read=lambda connection, arguments: {"sysinfo": connection.sysinfo()},
        text=lambda data: data["sysinfo"],
    ),
    Command(
        name="nodesevinfo", group=HOST, help="AMD's Secure Encrypted Virtualization",
        read=read_sev, writes=lambda arguments: True,
        rows=sev_row,
    ),
]

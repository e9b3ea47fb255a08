"""The command ``pyvirhost``."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

import pyvirhost
from pyvirhost.report import collect, print_report
from pyvirhost.text import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after the command's name; by default those of the process.

    Returns
    -------
    int
        0, or 1 after one line on standard error that says what failed.

    Raises
    ------
    SystemExit
        With status 2 where the arguments make no sense, 0 after ``--help`` and ``--version``.
    """
    arguments = parser().parse_args(argv)
    # Python acts on Ctrl-C between two of its own instructions, so not while libvirt waits for a
    # server. The default action ends the process at any time; a shell calls that status 130.
    interruptible = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return report(arguments.connect, as_json=arguments.json)
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    result = argparse.ArgumentParser(
        prog="pyvirhost",
        description="Report what a libvirt host is, has and does: CPUs, memory, NUMA cells, KSM.",
    )
    result.add_argument(
        "-c", "--connect", metavar="URI",
        help="the host, such as qemu:///system; by default libvirt chooses",
    )
    result.add_argument(
        "--json", action="store_true", help="print JSON, in bytes and seconds, in place of text",
    )
    result.add_argument(
        "--version", action="version", version=f"%(prog)s {pyvirhost.__version__}",
    )
    return result


def report(uri: str | None, *, as_json: bool) -> int:
    """Print the report of a host and return the exit status."""
    try:
        connection = pyvirhost.open(uri, readonly=True)
    except ImportError as error:
        return fail(str(error))
    except (pyvirhost.LibvirtError, ValueError) as error:
        return fail(f"cannot open {uri or 'the default URI'}: {error}")
    try:
        with connection:
            found = collect(connection)
    except pyvirhost.LibvirtError as error:
        return fail(str(error))
    try:
        if as_json:
            print(json.dumps(found, indent=2), flush=True)
        else:
            print_report(found)
    except ImportError as error:
        return fail(f"{error}; for text: pip install 'pyvirhost[cli]', or use --json")
    except OSError as error:
        # Python flushes standard output again at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader such as head has what it wanted.
        return 0 if isinstance(error, BrokenPipeError) else fail(f"cannot print: {error.strerror}")
    return 0


def fail(message: str) -> int:
    """Print why the command failed, on one line, and return its exit status."""
    print("pyvirhost:", printable(" ".join(message.split())), file=sys.stderr)
    return 1

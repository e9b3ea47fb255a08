"""The person at the terminal: what is asked of them, and signals that end the command meanwhile."""

import json
import os
import signal
import struct
import subprocess
import termios
from fcntl import ioctl

import pytest
from command import COMMAND, ROOT, TEST, Terminal, refusal, silent_servers
from daemon import PASSWORD, USER, Daemon

pytestmark = pytest.mark.usefixtures("plain_environment")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_interrupting_a_sweep_gives_the_cursor_back(tmp_path, number):
    with silent_servers(tmp_path, 2) as servers:
        options = [option for uri, _ in servers for option in ("-c", uri)]
        with Terminal(*options, "freecell") as terminal:
            terminal.read(until="hosts")
            if number == signal.SIGINT:
                terminal.type("\x03")
            else:
                terminal.process.send_signal(number)
            status, printed = terminal.end()
    assert status == -number
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def sasl_daemon():
    with Daemon(sasl="scram-sha-256") as daemon:
        yield daemon


def test_a_password_is_asked_for_on_a_terminal(sasl_daemon):
    with Terminal("-c", sasl_daemon.test_uri, "freecell", NO_COLOR="1") as terminal:
        terminal.read(until="authorization name: ")
        terminal.type("\n")
        terminal.read(until="authentication name: ")
        terminal.type(f"{USER}\n")
        terminal.read(until="password: ")
        terminal.type(f"{PASSWORD}\n")
        status, printed = terminal.end()
    assert status == 0
    assert printed.endswith("3.0 MiB\n")
    assert PASSWORD not in printed
    assert "authentication" in refusal("-c", sasl_daemon.test_uri, "freecell").lower()


def ask_for_password(terminal):
    terminal.read(until="authorization name: ")
    terminal.type("\n")
    terminal.read(until="authentication name: ")
    terminal.type(f"{USER}\n")
    terminal.read(until="password: ")
    assert not termios.tcgetattr(terminal.keys)[3] & termios.ECHO


@pytest.mark.parametrize("number", ["ctrl-c", *SIGNALS], ids=str)
def test_a_signal_at_a_password_gives_the_echo_back(sasl_daemon, number):
    with Terminal("-c", sasl_daemon.test_uri, "freecell") as terminal:
        before = termios.tcgetattr(terminal.keys)
        ask_for_password(terminal)
        if number == "ctrl-c":
            terminal.type("\x03")
            number = signal.SIGINT
        else:
            terminal.process.send_signal(number)
        assert terminal.process.wait(60) == -number
        assert termios.tcgetattr(terminal.keys) == before
        assert "Traceback" not in terminal.read()


def test_a_password_that_nobody_types_in_time_gives_the_echo_back(sasl_daemon):
    with Terminal("-c", sasl_daemon.test_uri, "--timeout", "3", "freecell") as terminal:
        before = termios.tcgetattr(terminal.keys)
        ask_for_password(terminal)
        assert terminal.process.wait(60) == 1
        assert termios.tcgetattr(terminal.keys) == before
        assert "no answer for 3." in terminal.read()


def test_a_name_that_nobody_types_in_time_is_an_error(sasl_daemon):
    with Terminal("-c", sasl_daemon.test_uri, "--timeout", "1", "freecell") as terminal:
        status, printed = terminal.end()
    assert status == 1  # and not SIGABRT: a thread still waits for standard input
    assert "no answer for 1." in printed


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_a_question_ends_the_command(number):
    with Terminal("-c", TEST, "nodesuspend", "mem", "60") as terminal:
        terminal.read(until="[y/N] ")
        terminal.process.send_signal(number)
        status, printed = terminal.end()
    assert status == -number
    assert "Traceback" not in printed


def test_what_ignores_a_signal_goes_on_to():
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND, "-c", TEST, "--watch", "0.1",
         "--json", "hostname"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        json.loads(process.stdout.readline())
        process.send_signal(signal.SIGHUP)
        for _ in range(5):
            json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("command", [
    ["hostname", "--watch", "0.1"], ["poll", "--interval", "0.1"], ["top", "--interval", "0.1"],
    ["nodesuspend", "mem", "60"]], ids=lambda command: command[0])
def test_a_terminal_that_is_closed_ends_the_command(command):
    with Terminal("-c", TEST, *command, LINES="30") as terminal:
        ioctl(terminal.keys, termios.TIOCSWINSZ, struct.pack("4H", 30, 120, 0, 0))
        terminal.read(until={"top": "3.0G", "nodesuspend": "[y/N] "}.get(command[0], "\n"))
        os.close(terminal.keys)
        terminal.keys = None
        os.close(terminal.screen)
        terminal.screen = os.open(os.devnull, os.O_RDONLY)
        # To read or write fails at the same moment, and that may be the first to be noticed.
        assert terminal.process.wait(60) in ([-signal.SIGHUP, 2] if command[0] == "nodesuspend" else
                                             [-signal.SIGHUP, 1])

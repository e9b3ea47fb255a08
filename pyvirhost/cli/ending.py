"""How a signal ends the command: at once, with the terminal restored."""

import os
import signal
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(BaseException):
    """Signal `number` came and ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def in_order(act: Callable[[], T]) -> T:
    """Return what `act` returns, unless a signal comes, and restore the terminal.

    A signal raises `Interruption` in `act`, and then ends the process.
    """
    restore = TerminalSettings().restore
    earlier = {}
    try:
        try:
            for number in SIGNALS:
                # Signals that nohup or a shell's background job ignores stay ignored.
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    earlier[number] = signal.signal(number, interrupt)
            return act()
        finally:
            restore()
            for number, handler in earlier.items():
                signal.signal(number, handler)
    except Interruption as interruption:
        # Threads may be waiting for hosts, and only the end of the process ends them. Dying of the
        # signal itself tells a shell to stop its script; the shell reports SIGINT as status 130.
        restore()
        signal.signal(interruption.number, signal.SIG_DFL)
        os.kill(os.getpid(), interruption.number)
        raise


def interrupt(number: int, frame: object) -> None:
    """Handle the first signal and ignore later ones: some programs send it twice."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interruption(number)


def caught_signals() -> list[signal.Signals]:
    """Return the signals that `in_order` waits for."""
    return [number for number in SIGNALS if signal.getsignal(number) is interrupt]


class TerminalSettings:
    """How the terminal handles keys; a password prompt changes that for a moment."""

    def __init__(self) -> None:
        self.settings = None
        if sys.stdin is not None and sys.stdin.isatty():
            self.fd = sys.stdin.fileno()
            self.settings = termios.tcgetattr(self.fd)

    def restore(self) -> None:
        """Restore the settings."""
        if self.settings is not None:
            with suppress(termios.error):  # the terminal may be gone
                # Setting them in the background would stop the process.
                if termios.tcgetattr(self.fd) != self.settings:
                    termios.tcsetattr(self.fd, termios.TCSANOW, self.settings)

"""How the command ends by a signal: at once, and with the terminal as it was."""

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
    """A signal that ends the command has come: `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def in_order(act: Callable[[], T]) -> T:
    """Return what `act` returns, unless a signal comes; the terminal is then as it was.

    The signal raises `Interruption` in `act`, and after that ends the process.
    """
    restore = TerminalSettings().restore
    earlier = {}
    try:
        try:
            for number in SIGNALS:
                # What is ignored, by nohup or by a shell's jobs in the background, stays so.
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    earlier[number] = signal.signal(number, interrupt)
            return act()
        finally:
            restore()
            for number, handler in earlier.items():
                signal.signal(number, handler)
    except Interruption as interruption:
        # Threads may be waiting for hosts, which only the end of the process ends. Ended by the
        # signal itself it tells a shell, which stops a script and calls that status 130.
        restore()
        signal.signal(interruption.number, signal.SIG_DFL)
        os.kill(os.getpid(), interruption.number)
        raise


def interrupt(number: int, frame: object) -> None:
    """Handle the first signal, and ignore those that follow: some programs send it twice."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interruption(number)


def caught_signals() -> list[signal.Signals]:
    """Return the signals that `in_order` waits for."""
    return [number for number in SIGNALS if signal.getsignal(number) is interrupt]


class TerminalSettings:
    """What the terminal does with keys, which asking for a password changes for a moment."""

    def __init__(self) -> None:
        self.settings = None
        if sys.stdin is not None and sys.stdin.isatty():
            self.fd = sys.stdin.fileno()
            self.settings = termios.tcgetattr(self.fd)

    def restore(self) -> None:
        """Set them back."""
        if self.settings is not None:
            with suppress(termios.error):  # the terminal may be gone
                # Setting them in the background would stop the process.
                if termios.tcgetattr(self.fd) != self.settings:
                    termios.tcsetattr(self.fd, termios.TCSANOW, self.settings)

"""How many seconds, and how many of something: what many functions take, checked in one place."""

import threading

LEAST_SECONDS = 0.001
"""The shortest interval or timeout. Far shorter ones would be lost when added to the time."""


def checked_seconds(seconds: float, name: str) -> float:
    """Return a number of seconds, or raise what is wrong with it."""
    if not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number, not {type(seconds).__name__}")
    if not LEAST_SECONDS <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be at least {LEAST_SECONDS} seconds, not {seconds}")
    return float(seconds)


def check_number(number: int, name: str) -> None:
    """Raise what is wrong with how many of something there are to be."""
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")

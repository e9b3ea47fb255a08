"""Checks for the seconds and counts that many functions take."""

import threading

LEAST_SECONDS = 0.001
"""The shortest interval or timeout. Far shorter ones would vanish when added to the time."""


def checked_seconds(seconds: float, name: str) -> float:
    """Return a number of seconds as a float, or raise if it is invalid."""
    if not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number, not {type(seconds).__name__}")
    if not LEAST_SECONDS <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be at least {LEAST_SECONDS} seconds, not {seconds}")
    return float(seconds)


def check_number(number: int, name: str) -> None:
    """Raise if a count is invalid."""
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")

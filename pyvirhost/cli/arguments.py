"""Numbers and other values as people write them on the command line."""

import re
from argparse import ArgumentTypeError
from typing import Any

from pyvirhost.poll.arguments import LEAST_SECONDS, checked_seconds
from pyvirhost.values import KIB

Keepalive = tuple[int, int]


def positive(text: str) -> int:
    """Return a number greater than 0."""
    value = number(text)
    if value < 1:
        raise ArgumentTypeError("must be more than 0")
    return value


def number(text: str) -> int:
    """Return a whole number that is not negative."""
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError(f"must be a number, not {text!r}")
    value = int(text) if len(text) < 20 else 2**64
    if value > 2**32 - 1:
        raise ArgumentTypeError(f"{text[:20]} is too big")
    return value


def seconds(text: str) -> float:
    """Return a number of seconds."""
    try:
        return seconds_value(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, not {text!r}") from None


def keepalive(text: str) -> Keepalive | None:
    """Return the interval and the count of a keepalive, or None if it is off."""
    try:
        return keepalive_value(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, not {text!r}") from None


def page_size(text: str) -> int:
    """Return the size of a page in KiB."""
    match = re.fullmatch(r"([0-9]{1,9})([KMG]?)(iB|B)?", text, re.IGNORECASE)
    kib = int(match[1]) * {"": 1, "K": 1, "M": KIB, "G": KIB * KIB}[match[2].upper()] if (
        match) else 0
    if not 0 < kib < 2**32:
        raise ArgumentTypeError(
            f"must be a page size in KiB, or with a unit as in 2M or 1G, not {text!r}")
    return kib


def cell_argument(parser: Any, help: str) -> None:
    """Add the number of a NUMA cell, under both of virsh's names."""
    parser.add_argument("--cell", "--cellno", dest="cell", type=number, metavar="N", help=help)


# ---- in hosts files, too ------------------------------------------------------------------------

def seconds_value(value: object) -> float:
    """Return a number of seconds, given as a number or as text, if it is within bounds."""
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return checked_seconds(float(value), "it")
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"must be a number of seconds, at least {LEAST_SECONDS}")


def keepalive_value(value: object) -> Keepalive | None:
    """Return the keepalive for a text such as ``"5:3"`` or ``"off"``."""
    if value == "off":
        return None
    if isinstance(value, str):
        interval, colon, count = value.partition(":")
        if colon and is_number(interval) and is_number(count) and int(interval) > 0:
            return int(interval), int(count)
    raise ValueError('must be INTERVAL:COUNT, as in "5:3", or "off"')


def is_number(text: str) -> bool:
    """Return whether a text is a number that fits in a C int."""
    return text.isascii() and text.isdecimal() and len(text) < 10

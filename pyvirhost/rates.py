"""How busy a host's CPUs were between two snapshots.

A host's counters only grow, with three exceptions: iowait and idle may run backwards a little, CPUs
come and go, and a reboot resets them all.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyvirhost

# Modes whose times add up to all of a CPU's time. A guest's time is part of the user's.
_MODES = ("kernel", "user", "idle", "iowait", "intr")
# Those of which Linux says that they may run backwards.
_UNSTEADY = frozenset(("idle", "iowait"))


@dataclass(frozen=True, slots=True)
class CPURates:
    """The share of time that a CPU, or all CPUs together, spent in each mode.

    Attributes
    ----------
    kernel, user, idle, iowait, intr, guest : float or None
        0.0 to 1.0, or None if the server does not report the mode. They add up to 1.0, except for
        ``guest``, which is part of ``user``.
    busy : float
        All but ``idle`` and ``iowait``.
    """

    kernel: float | None
    user: float | None
    idle: float | None
    iowait: float | None
    intr: float | None
    guest: float | None
    busy: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the shares as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HostRates:
    """How busy a host was between two snapshots.

    Attributes
    ----------
    cpu : CPURates or None
        For all CPUs together. None if unknown: ``cpu_stats`` is missing from a snapshot, no time
        has passed, or the host was rebooted.
    per_cpu : dict of int to CPURates or None
        For each CPU that is online in the later snapshot; None for a CPU if unknown, such as one
        that was offline before. None as a whole if ``per_cpu_stats`` is missing from a snapshot.
    """

    cpu: CPURates | None
    per_cpu: dict[int, CPURates | None] | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of dicts."""
        return asdict(self)


def rates(
    earlier: "pyvirhost.HostSnapshot | None", later: "pyvirhost.HostSnapshot"
) -> HostRates | None:
    """Return how busy a host was between two of its snapshots.

    Parameters
    ----------
    earlier : HostSnapshot or None
        If None, the result is None.
    later : HostSnapshot
        With the same fields.

    Returns
    -------
    HostRates or None

    Raises
    ------
    ValueError
        The snapshots are of different hosts.
    """
    if earlier is None:
        return None
    for snapshot in (earlier, later):
        if not isinstance(snapshot, pyvirhost.HostSnapshot):
            raise TypeError(f"rates are between HostSnapshots, not {type(snapshot).__name__}")
    if earlier.uri != later.uri:
        raise ValueError(f"rates are of one host, not {earlier.uri} and {later.uri}")
    per_cpu = None
    if earlier.per_cpu_stats is not None and later.per_cpu_stats is not None:
        before = earlier.per_cpu_stats.to_dict()
        per_cpu = {
            cpu: cpu_rates(before.get(cpu), times)
            for cpu, times in later.per_cpu_stats.to_dict().items()
        }
    return HostRates(cpu_rates(earlier.cpu_stats, later.cpu_stats), per_cpu)


def cpu_rates(
    earlier: Mapping[str, int] | None, later: Mapping[str, int] | None
) -> CPURates | None:
    """Return the shares of the time between two readings of a CPU's times.

    Parameters
    ----------
    earlier, later : mapping of str to int, or None
        What `Connection.cpu_stats` returns.

    Returns
    -------
    CPURates or None
        None if a reading is missing, no time has passed, or the counters were reset.
    """
    if earlier is None or later is None:
        return None
    # Hypervisors that keep no times say how busy they are now.
    if "utilization" in later and "idle" not in later:
        busy = min(later["utilization"] / 100, 1.0)
        return CPURates(None, None, 1 - busy, None, None, None, busy)
    spent = {mode: later[mode] - earlier[mode]
             for mode in (*_MODES, "guest") if mode in earlier and mode in later}
    if any(time < 0 for mode, time in spent.items() if mode not in _UNSTEADY):
        return None
    spent = {mode: max(time, 0) for mode, time in spent.items()}
    total = sum(spent.get(mode, 0) for mode in _MODES)
    if total == 0:
        return None
    shares = {mode: time / total for mode, time in spent.items()}
    return CPURates(
        kernel=shares.get("kernel"), user=shares.get("user"), idle=shares.get("idle"),
        iowait=shares.get("iowait"), intr=shares.get("intr"), guest=shares.get("guest"),
        busy=sum(shares.get(mode, 0.0) for mode in ("kernel", "user", "intr")),
    )

"""libvirt's host module for Python: fast, typed and safe to poll from many threads.

>>> import pyvirhost
>>> with pyvirhost.open("test:///default") as connection:
...     print(connection.cpu_stats().user)
9797400000

Nothing is loaded before its first use: importing this package loads neither libvirt nor an
extension module.
"""

__version__ = "0.1.0"

_MODULES = {
    "_connection": ("Connection", "initialize", "lib_version", "open"),
    "_errors": (
        "AccessDeniedError", "AuthenticationError", "CPUIncompatibleError",
        "ConnectionClosedError", "ConnectionLostError", "InvalidArgumentError", "LibvirtError",
        "NotSupportedError", "OperationTimeoutError",
    ),
    "_events": ("EventLoop",),
    "_fields": ("SnapshotField",),
    "_results": (
        "ALL_FIELDS", "CPUMap", "CPUStats", "CellsFreeMemory", "HostSnapshot", "MemoryStats",
        "NodeInfo", "PRIORITY_FIELDS", "PageCounts", "SecurityModel", "StatsTable",
        "TypedParameters", "Version",
    ),
    "auth": ("Credential", "DEFAULT_AUTH", "PasswordAuth"),
    "constants": (
        "ALL_CELLS", "ALL_CPUS", "AllocPagesFlags", "BaselineCPUFlags", "CPUCompareResult",
        "CloseReason", "CompareCPUFlags", "ConnectFlags", "CredentialType", "ErrorCode",
        "ErrorDomain", "ErrorLevel", "NodeSuspendTarget",
    ),
    "poll.fleet": ("Fleet",),
    "poll.host": ("Host",),
    "poll.link": ("Answer",),
    "poll.once": ("poll_once",),
    "poll.poller": ("Poller",),
    "poll.sample": ("Sample",),
    "rates": ("CPURates", "HostRates"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("aio", "constants")

__all__ = ["__version__", *_SUBMODULES, *_HOMES]


def _load(module):
    # importlib would cost a program's first reading more than an extension module does.
    return __import__(f"{__name__}.{module}", fromlist=["*"])


def __getattr__(name):
    if name in _SUBMODULES:
        return _load(name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = _load(_HOMES[name])
    except ImportError as error:
        if "libvirt.so" not in str(error):
            raise
        raise ImportError(
            f"libvirt's client library can't be loaded ({error}); install it: apt install libvirt0 "
            "(Debian, Ubuntu), dnf install libvirt-libs (Fedora), zypper install libvirt-libs "
            "(openSUSE) or apk add libvirt-libs (Alpine)."
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})

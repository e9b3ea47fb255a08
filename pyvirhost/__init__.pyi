from typing import Final

from pyvirhost import aio as aio
from pyvirhost import constants as constants
from pyvirhost._connection import Connection as Connection
from pyvirhost._connection import initialize as initialize
from pyvirhost._connection import lib_version as lib_version
from pyvirhost._connection import open as open
from pyvirhost._errors import AccessDeniedError as AccessDeniedError
from pyvirhost._errors import AuthenticationError as AuthenticationError
from pyvirhost._errors import ConnectionClosedError as ConnectionClosedError
from pyvirhost._errors import ConnectionLostError as ConnectionLostError
from pyvirhost._errors import CPUIncompatibleError as CPUIncompatibleError
from pyvirhost._errors import InvalidArgumentError as InvalidArgumentError
from pyvirhost._errors import LibvirtError as LibvirtError
from pyvirhost._errors import NotSupportedError as NotSupportedError
from pyvirhost._errors import OperationTimeoutError as OperationTimeoutError
from pyvirhost._events import EventLoop as EventLoop
from pyvirhost._fields import SnapshotField as SnapshotField
from pyvirhost._results import ALL_FIELDS as ALL_FIELDS
from pyvirhost._results import PRIORITY_FIELDS as PRIORITY_FIELDS
from pyvirhost._results import CellsFreeMemory as CellsFreeMemory
from pyvirhost._results import CPUMap as CPUMap
from pyvirhost._results import CPUStats as CPUStats
from pyvirhost._results import HostSnapshot as HostSnapshot
from pyvirhost._results import MemoryStats as MemoryStats
from pyvirhost._results import NodeInfo as NodeInfo
from pyvirhost._results import PageCounts as PageCounts
from pyvirhost._results import SecurityModel as SecurityModel
from pyvirhost._results import StatsTable as StatsTable
from pyvirhost._results import TypedParameters as TypedParameters
from pyvirhost._results import Version as Version
from pyvirhost.auth import DEFAULT_AUTH as DEFAULT_AUTH
from pyvirhost.auth import Credential as Credential
from pyvirhost.auth import PasswordAuth as PasswordAuth
from pyvirhost.constants import ALL_CELLS as ALL_CELLS
from pyvirhost.constants import ALL_CPUS as ALL_CPUS
from pyvirhost.constants import AllocPagesFlags as AllocPagesFlags
from pyvirhost.constants import BaselineCPUFlags as BaselineCPUFlags
from pyvirhost.constants import CloseReason as CloseReason
from pyvirhost.constants import CompareCPUFlags as CompareCPUFlags
from pyvirhost.constants import ConnectFlags as ConnectFlags
from pyvirhost.constants import CPUCompareResult as CPUCompareResult
from pyvirhost.constants import CredentialType as CredentialType
from pyvirhost.constants import ErrorCode as ErrorCode
from pyvirhost.constants import ErrorDomain as ErrorDomain
from pyvirhost.constants import ErrorLevel as ErrorLevel
from pyvirhost.constants import NodeSuspendTarget as NodeSuspendTarget
from pyvirhost.poll.fleet import Fleet as Fleet
from pyvirhost.poll.host import Host as Host
from pyvirhost.poll.link import Answer as Answer
from pyvirhost.poll.once import poll_once as poll_once
from pyvirhost.poll.poller import Poller as Poller
from pyvirhost.poll.sample import Sample as Sample
from pyvirhost.rates import CPURates as CPURates
from pyvirhost.rates import HostRates as HostRates

__version__: Final[str]

__all__ = [
    "ALL_CELLS",
    "ALL_CPUS",
    "ALL_FIELDS",
    "DEFAULT_AUTH",
    "PRIORITY_FIELDS",
    "AccessDeniedError",
    "AllocPagesFlags",
    "Answer",
    "AuthenticationError",
    "BaselineCPUFlags",
    "CPUCompareResult",
    "CPUIncompatibleError",
    "CPUMap",
    "CPURates",
    "CPUStats",
    "CellsFreeMemory",
    "CloseReason",
    "CompareCPUFlags",
    "ConnectFlags",
    "Connection",
    "ConnectionClosedError",
    "ConnectionLostError",
    "Credential",
    "CredentialType",
    "ErrorCode",
    "ErrorDomain",
    "ErrorLevel",
    "EventLoop",
    "Fleet",
    "Host",
    "HostRates",
    "HostSnapshot",
    "InvalidArgumentError",
    "LibvirtError",
    "MemoryStats",
    "NodeInfo",
    "NodeSuspendTarget",
    "NotSupportedError",
    "OperationTimeoutError",
    "PageCounts",
    "PasswordAuth",
    "Poller",
    "Sample",
    "SecurityModel",
    "SnapshotField",
    "StatsTable",
    "TypedParameters",
    "Version",
    "__version__",
    "aio",
    "constants",
    "initialize",
    "lib_version",
    "open",
    "poll_once",
]

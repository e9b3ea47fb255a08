"""Nothing of libvirt-host.h is forgotten: libvirt's own API description is the list."""

import re
import subprocess
from pathlib import Path

import pytest
from api import named, since

import pyvirhost
from pyvirhost import constants

# What is not bound yet. It must be exactly what is missing.
LATER = set()

# A Python callable stands for a pair of function and data, and its return value for a result.
CALLABLES = {
    "virConnectAuthCallbackPtr", "virConnectCloseFunc",
    "virConnectAuth.cb", "virConnectAuth.cbdata",
    "virConnectAuth.credtype", "virConnectAuth.ncredtype",
    "virConnectCredential.result", "virConnectCredential.resultlen",
}

# virConnectOpenAuth without callbacks is both of them.
SAME = {"virConnectOpen": "virConnectOpenAuth", "virConnectOpenReadOnly": "virConnectOpenAuth"}

# C struct -> the type whose attributes are its members, by other names where they are many values
STRUCTS = {
    "virNodeInfo": (pyvirhost.NodeInfo, {}),
    "virNodeCPUStats": (pyvirhost.CPUStats, {"field": "fields", "value": "values"}),
    "virNodeMemoryStats": (pyvirhost.MemoryStats, {"field": "fields", "value": "values"}),
    "virSecurityModel": (pyvirhost.SecurityModel, {}),
    "virConnectCredential": (pyvirhost.Credential, {"defresult": "default"}),
}

# Newer than the oldest libvirt that this package is built with.
NEWER = {
    "VIR_NODE_CPU_STATS_GUEST": "guest", "VIR_NODE_MEMORY_STATS_AVAILABLE": "available",
    "VIR_CONNECT_BASELINE_CPU_IGNORE_HOST": 4,
    "VIR_NODE_SEV_CPU0_ID": "cpu0-id", "VIR_NODE_SEV_MAX_GUESTS": "max-guests",
    "VIR_NODE_SEV_MAX_ES_GUESTS": "max-es-guests",
}


def called_functions():
    """The functions of libvirt that the built modules call."""
    extensions = Path(pyvirhost.__file__).parent.glob("*.so")
    names = subprocess.run(["nm", "--dynamic", "--undefined-only", *extensions],
                           capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\b(vir[A-Z]\w+)", names))


def used_structs(functions):
    """The structs that a function of libvirt-host.h or a callback of it is given."""
    declared = {**functions, **named("functype")}
    types = " ".join(
        argument.get("type") for function in declared.values() for argument in function.iter("arg"))
    structs = {name: struct for name, struct in named("struct").items()
               if struct.find("field") is not None}
    return {name: struct for name, struct in structs.items() if re.search(rf"\b{name}Ptr\b", types)}


def test_nothing_is_missing_but_what_comes_later():
    functions = named("function")
    called = called_functions()
    missing = {name for name in functions if SAME.get(name, name) not in called}
    missing |= {name for name in named("functype") if name not in called}
    missing |= {name for name in named("variable") if name not in called}
    for name, struct in used_structs(functions).items():
        python_type, other_names = STRUCTS.get(name, (object, {}))
        missing |= {f"{name}.{field.get('name')}" for field in struct.iter("field")
                    if not hasattr(python_type,
                                   other_names.get(field.get("name"), field.get("name")))}
    missing |= {name for tag in ("macro", "enum") for name in named(tag)
                if not hasattr(constants, name)}
    assert missing >= CALLABLES
    assert missing - CALLABLES == LATER
    assert len(functions) == 40


def test_the_oldest_functions_are_all_that_is_called():
    # The package links plainly: it must not need a libvirt newer than its oldest.
    for name in called_functions() & named("function").keys():
        version = since(name) or "0"
        assert [int(part) for part in version.split(".")] <= [*pyvirhost._connection.OLDEST_LIBVIRT]


def test_constants_have_cs_values():
    for name, macro in named("macro").items():
        if macro.get("params"):
            continue
        value = macro.get("string") or eval(macro.get("raw"))
        assert getattr(constants, name) == value
    for name, enum in named("enum").items():
        assert getattr(constants, name) == int(enum.get("value"))


@pytest.mark.parametrize(("enum", "c_type", "file", "prefix"), [
    (constants.NodeSuspendTarget, "virNodeSuspendTarget", "libvirt-host",
     "VIR_NODE_SUSPEND_TARGET_"),
    (constants.ConnectFlags, "virConnectFlags", "libvirt-host", "VIR_CONNECT_"),
    (constants.CredentialType, "virConnectCredentialType", "libvirt-host", "VIR_CRED_"),
    (constants.CPUCompareResult, "virCPUCompareResult", "libvirt-host", "VIR_CPU_COMPARE_"),
    (constants.CompareCPUFlags, "virConnectCompareCPUFlags", "libvirt-host",
     "VIR_CONNECT_COMPARE_CPU_"),
    (constants.BaselineCPUFlags, "virConnectBaselineCPUFlags", "libvirt-host",
     "VIR_CONNECT_BASELINE_CPU_"),
    (constants.AllocPagesFlags, "virNodeAllocPagesFlags", "libvirt-host", "VIR_NODE_ALLOC_PAGES_"),
    (constants.CloseReason, "virConnectCloseReason", "libvirt-common",
     "VIR_CONNECT_CLOSE_REASON_"),
    # Besides VIR_ERR_NO_SECRET there is VIR_WAR_NO_SECRET, so a warning's name says that it is one.
    (constants.ErrorCode, "virErrorNumber", "virterror", ("VIR_ERR_", "VIR_")),
    (constants.ErrorDomain, "virErrorDomain", "virterror", "VIR_FROM_"),
    (constants.ErrorLevel, "virErrorLevel", "virterror", "VIR_ERR_"),
])
def test_enums_have_cs_members_by_short_names(enum, c_type, file, prefix):
    prefixes = (prefix,) if isinstance(prefix, str) else prefix
    declared = {name: int(value.get("value")) for name, value in named("enum", file).items()
                if value.get("type") == c_type and not name.endswith("_LAST")}
    c_names = {next(prefix + name for prefix in prefixes if hasattr(constants, prefix + name)
                    and getattr(constants, prefix + name) is member): member
               for name, member in enum.__members__.items()}
    assert declared
    assert declared.items() <= {name: int(member) for name, member in c_names.items()}.items()
    assert len(c_names) == len(enum.__members__)
    assert all(name.isidentifier() and name == name.upper() for name in enum.__members__)
    newer = c_names.keys() - declared.keys()
    assert newer <= {"VIR_CONNECT_BASELINE_CPU_IGNORE_HOST", "VIR_ERR_NO_NETWORK_METADATA",
                     "VIR_ERR_AGENT_COMMAND_TIMEOUT", "VIR_ERR_AGENT_COMMAND_FAILED",
                     "VIR_ERR_INVALID_ENCR_KEY_SECRET", "VIR_ERR_MULTIPLE_DOMAINS",
                     "VIR_FROM_CH"}


def test_names_that_would_be_the_same_stay_apart():
    assert constants.ErrorCode.NO_SECRET is constants.VIR_ERR_NO_SECRET
    assert constants.ErrorCode.WAR_NO_SECRET is constants.VIR_WAR_NO_SECRET
    assert constants.ErrorCode.OK is constants.VIR_ERR_OK


def test_constants_newer_than_the_headers_are_there():
    for name, value in NEWER.items():
        assert getattr(constants, name) == value
    assert constants.VIR_ERR_AGENT_COMMAND_FAILED == 113
    assert constants.VIR_ERR_INVALID_ENCR_KEY_SECRET == 114


def test_all_cpus_and_all_cells_are_public():
    assert pyvirhost.ALL_CPUS == constants.VIR_NODE_CPU_STATS_ALL_CPUS == -1
    assert pyvirhost.ALL_CELLS == constants.VIR_NODE_MEMORY_STATS_ALL_CELLS == -1

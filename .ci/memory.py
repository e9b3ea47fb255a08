#!/usr/bin/env python3
"""Run the suite's core under AddressSanitizer with UBSan, and under valgrind.

Before each, faults are planted in a copy of the sources and have to be found.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from typing import NamedTuple
from xml.etree import ElementTree

from build import ROOT, build

BUILD = ROOT / "build" / "memory"
MODULES = ("_connection", "_errors", "_events", "_results")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

CORE = [f"tests/test_{name}.py"
        for name in ("arguments", "auth", "connection", "errors", "events", "fuzz", "loop",
                     "nomemory", "rates", "results", "snapshot", "xml")]
# How the fuzzer tells a crash and a leak, which under the sanitizers look otherwise; and forks
# beside threads that allocate, whose child may find GCC 12's libasan locked for ever.
NOT_SANITIZED = ["-k", "not what_is_to_be_found and not forks_while"]
# Thousands of calls or races against the clock, of which valgrind makes minutes; the fuzzer's
# processes and forked ones, which it does not follow; and libvirt's own event loop.
NOT_VALGRIND = ["-k", "not fuzz and not whatever and not threads and not fork and not blocks"
                " and not events and not libvirts_own_loop"]


class Fault(NamedTuple):
    """What to plant, a program that meets it, and what the tools then say."""

    module: str
    sound: str
    planted: str
    program: str
    sanitizers: str
    valgrind: str | None


FAULTS = {
    "read past the end of a result's values": Fault(
        "_results.pyx",
        "return self.values[<Py_ssize_t>self.layout.positions[field]]",
        "return self.values[<Py_ssize_t>self.layout.positions[field] + self.layout.count]",
        "import pyvirhost; print(pyvirhost.open('test:///default').cpu_stats()['kernel'])",
        sanitizers="AddressSanitizer: heap-buffer-overflow", valgrind="Invalid read"),
    "int that overflows": Fault(
        "_results.pyx",
        "len(bits) != (<Py_ssize_t>cpus.present + 7) // 8",
        "len(bits) != (cpus.present + 7) // 8",
        "from pyvirhost import _results; _results._restore_cpu_map(b'', 2**31 - 1, 0)",
        sanitizers="runtime error: signed integer overflow", valgrind=None),
}


def environment(package, **more):
    """Return what makes Python use that package, and malloc for each single object."""
    return {**os.environ, "PYTHONPATH": str(package), "PYTHONSAFEPATH": "1",
            "PYTHONMALLOC": "malloc", **more}


def compilers_library(name):
    return subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True,
                          check=True).stdout.strip()


def sanitized(package, *arguments):
    # CPython and libvirt leave memory to the exit, and the suite has exact tests of leaks. libasan
    # has XDR functions of its own, which call those that it finds at the start, long before libvirt
    # brings libtirpc: without that, opening a connection to a daemon ends with a jump to address 0
    # from virNetMessageEncodeHeader, seen with GCC 12.2 and libvirt 9.0.
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=arguments[0] == "-c", text=True,
        env=environment(
            package, LD_PRELOAD=f"{compilers_library('libasan.so')} libtirpc.so.3",
            ASAN_OPTIONS="detect_leaks=0:allow_user_segv_handler=0:allocator_may_return_null=1",
            UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1"))


def valgrind(package, *arguments):
    reports = BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    done = subprocess.run(
        ["valgrind", "--quiet", "--error-limit=no", "--num-callers=50",
         "--suppressions=.ci/valgrind.supp", "--xml=yes", f"--xml-file={reports}/%p.xml",
         sys.executable, *arguments],
        cwd=ROOT, env=environment(package), stdout=subprocess.DEVNULL
        if arguments[0] == "-c" else None)
    if not any("<state>FINISHED</state>" in path.read_text() for path in reports.iterdir()):
        sys.exit("valgrind left no report")
    return done.returncode, [error for path in reports.iterdir() for error in errors(path)]


def errors(report):
    """Return the errors of one process that are ours, each as its lines."""
    found = []
    try:
        for _, element in ElementTree.iterparse(report):
            # With XML for output valgrind looks for leaks in any case.
            if element.tag == "error" and not element.findtext("kind").startswith("Leak_"):
                frames = [(frame.findtext("obj", "?").rpartition("/")[2], frame.findtext("fn", "?"))
                          for frame in element.find("stack")]
                if is_ours(frames):
                    found.append([element.findtext("xwhat/text") or element.findtext("what"),
                                  *(f"    {function} ({file})" for file, function in frames[:15])])
                element.clear()
    except ElementTree.ParseError:
        pass  # a forked child that ran another program ends its report in the middle
    return found


def is_ours(frames):
    # CPython reads memory in ways of its own that valgrind dislikes. An error is ours if our code
    # or what it called made it, but not if that was the interpreter running other Python code.
    for file, function in frames:
        if file in [module + SUFFIX for module in MODULES]:
            return True
        if function.startswith(("_PyEval_EvalFrame", "PyImport_", "gc_collect")):
            return False
    return False


def check(good, message):
    if not good:
        sys.exit(f"test-memory: {message}")
    print(f"test-memory: {message.replace(' not', '')}", flush=True)


def main():
    os.chdir(ROOT)
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *CORE)
    options = "--sanitize=address,undefined"
    planted = [fault[:3] for fault in FAULTS.values()]
    faulty = build(BUILD / "sanitized-faults", options, faults=planted)
    for name, fault in FAULTS.items():
        done = sanitized(faulty, "-c", fault.program)
        check(done.returncode != 0 and fault.sanitizers in done.stderr,
              f"the planted {name} was not found by the sanitizers")
    done = sanitized(build(BUILD / "sanitized", options), *pytest, *NOT_SANITIZED)
    check(done.returncode == 0, "the core did not pass with the sanitizers")

    faulty = build(BUILD / "faults", faults=planted)
    for name, fault in FAULTS.items():
        if fault.valgrind is not None:
            status, found = valgrind(faulty, "-c", fault.program)
            check(status == 0 and any(lines[0].startswith(fault.valgrind) for lines in found),
                  f"the planted {name} was not found by valgrind")
    status, found = valgrind(build(BUILD / "sound"), *pytest, *NOT_VALGRIND,
                             "-o", "faulthandler_timeout=500")
    for lines in found:
        print(*lines, sep="\n")
    check(status == 0 and not found, "the core did not pass under valgrind")


main()

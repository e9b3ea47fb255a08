"""What importing costs, and what happens without libvirt or with one that is too old."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import pyvirhost

PACKAGE = Path(pyvirhost.__file__).parent


def run(program, root=PACKAGE.parent, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": str(root), **environment}, cwd="/")


def test_importing_loads_neither_libvirt_nor_an_extension():
    done = run("""
        import sys
        before = set(sys.modules)
        import pyvirhost
        loaded = set(sys.modules) - before
        assert not {name for name in loaded if name.startswith("pyvirhost.")}, loaded
        assert "libvirt.so" not in open("/proc/self/maps").read()
        dir(pyvirhost), pyvirhost.__version__, pyvirhost.__all__
        pyvirhost.constants, pyvirhost.ErrorCode
        assert "libvirt.so" not in open("/proc/self/maps").read()
        pyvirhost.lib_version()
        assert "libvirt.so" in open("/proc/self/maps").read()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_there():
    for name in pyvirhost.__all__:
        assert getattr(pyvirhost, name) is getattr(pyvirhost, name)
        assert name in dir(pyvirhost)
    with pytest.raises(AttributeError, match="module 'pyvirhost' has no attribute 'opne'"):
        pyvirhost.opne  # type: ignore[attr-defined]  # noqa: B018


def test_a_star_import_gives_the_public_names():
    done = run("""
        from pyvirhost import *
        assert open("test:///default").ref().type() == "TEST"
    """, PYTHONWARNINGS="ignore::ResourceWarning")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_libvirt_is_an_import_error_that_says_what_to_install(tmp_path):
    copy = tmp_path / "pyvirhost"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    # The same extension, linked to a libvirt that no machine has.
    for extension in copy.glob("*.so"):
        extension.write_bytes(extension.read_bytes().replace(b"libvirt.so.0", b"libvirt.so.9"))
    done = run("""
        import pyvirhost
        assert pyvirhost.__version__
        try:
            pyvirhost.open
        except ImportError as error:
            print(error)
        try:
            from pyvirhost import LibvirtError
        except ImportError as error:
            print(error)
    """, root=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    for line in (first, second):
        assert line.startswith(
            "libvirt's client library can't be loaded (libvirt.so.9: cannot open shared")
        assert "; install it: apt install libvirt0 (Debian, Ubuntu)" in line


def test_an_import_error_of_another_kind_stays_what_it_is(tmp_path):
    copy = tmp_path / "pyvirhost"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    done = run("""
        import pyvirhost
        try:
            pyvirhost.open
        except ModuleNotFoundError as error:
            print(error)
    """, root=tmp_path)
    assert (done.returncode, done.stdout) == (0, "No module named 'pyvirhost._connection'\n")


def test_a_libvirt_that_is_too_old_is_refused_by_both_versions(tmp_path):
    source, shim = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text("int virGetVersion(unsigned long *version, const char *type, "
                      "unsigned long *driver) { *version = 6010000; return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
    done = run("""
        import pyvirhost
        try:
            pyvirhost.open("test:///default")
        except pyvirhost.NotSupportedError as error:
            print(error)
    """, LD_PRELOAD=str(shim))
    assert (done.returncode, done.stdout) == (
        0, "pyvirhost needs libvirt 7.0.0 or newer, this is 6.10.0\n")


def test_without_a_gil_it_stays_off():
    done = run("""
        import sys
        import sysconfig
        before = getattr(sys, "_is_gil_enabled", lambda: True)()
        from pyvirhost import _connection, _errors, _events, _results
        after = getattr(sys, "_is_gil_enabled", lambda: True)()
        assert before == after == (not sysconfig.get_config_var("Py_GIL_DISABLED"))
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_carries_its_types_and_no_sources():
    assert (PACKAGE / "py.typed").exists()
    for module in ("__init__", "_connection", "_errors", "_results"):
        assert (PACKAGE / f"{module}.pyi").exists()

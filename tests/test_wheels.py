"""What the wheels promise beyond what auditwheel holds them to."""

import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import pyvirhost

sys.path.append(str(Path(__file__).parents[1] / ".ci"))
import wheels


@pytest.fixture
def problems(tmp_path):
    """A function that links a module of C to a library of C, and returns what is wrong with it."""
    def problems(module, library="int known;", versions="LIBVIRT_0.0.3 { *; };"):
        (tmp_path / "library.c").write_text(library)
        (tmp_path / "module.c").write_text(module)
        (tmp_path / "versions").write_text(versions)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "library.so", "library.c",
                        "-Wl,--version-script=versions"], cwd=tmp_path, check=True)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "module.so", "module.c", "library.so"],
                       cwd=tmp_path, check=True)
        with (tmp_path / "module.so").open("rb") as file:
            return list(wheels.problems(ELFFile(file)))

    return problems


def test_a_name_without_a_version_is_found(problems):
    text = "void explicit_bzeroo(void *); void f(void *p) { explicit_bzeroo(p); }"
    assert problems(text) == [
        "needs explicit_bzeroo of no version, which is not in every glibc"]


def test_a_libvirt_that_is_too_new_is_found(problems):
    assert problems("int f(void); int g(void) { return f(); }", "int f(void) { return 0; }",
                    "LIBVIRT_0.10.2 { *; };") == []
    assert problems("int f(void); int g(void) { return f(); }", "int f(void) { return 0; }",
                    "LIBVIRT_7.1.0 { *; };") == ["needs f of libvirt 7.1.0"]


def test_python_and_what_every_system_has_are_no_problem(problems):
    assert problems("#include <stdlib.h>\n"
                    "void *PyMem_Malloc(long); void *f(void) { free(PyMem_Malloc(1)); return 0; }"
                    ) == []


def test_the_modules_need_no_newer_libvirt_than_is_promised():
    modules = list(Path(pyvirhost.__file__).parent.glob("*.so"))
    assert modules
    for module in modules:
        with module.open("rb") as file:
            assert list(wheels.problems(ELFFile(file))) == []

"""The suite's C sources, compiled on the spot with cc and pkg-config into a temporary folder."""

import os
import shlex
import subprocess
from pathlib import Path


def compile_library(name, folder):
    """Compile ``name.c`` to a shared library in `folder` and return its path."""
    # What is preloaded uses no name of libvirt's, and still has to bring it for RTLD_NEXT.
    return compiled(name, Path(folder, f"{name}.so"), "-shared", "-fPIC", "-Wl,--no-as-needed")


def compile_program(name, folder):
    """Compile ``name.c`` to a program in `folder` and return its path."""
    return compiled(name, Path(folder, name))


def compiled(name, target, *options):
    """Compile ``name.c`` against libvirt and return `target`."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libvirt"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    compiler = shlex.split(os.environ.get("CC", "cc"))
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run([*compiler, "-O2", "-Wall", "-Wextra", *options, "-o", target, source,
                    *shlex.split(flags), "-ldl"], check=True)
    return target

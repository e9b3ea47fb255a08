"""What setting up promises: .ci/packages finds what is missing, setup.py says what to install."""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from daemon import with_own_mounts

ROOT = Path(__file__).parents[1]
BUILD_TOOLS = ("cc", "pkg-config")
BENCH_TOOLS = (*BUILD_TOOLS, "libvirtd", "setpriv", "unshare")
TEST_TOOLS = (
    *BENCH_TOOLS, "bash", "virsh", f"qemu-system-{platform.machine()}", "saslpasswd2", "openssl",
    "valgrind",
)
NO_LIBVIRT = {"PKG_CONFIG_LIBDIR": "/nowhere", "PKG_CONFIG_PATH": ""}
EVERY_FOLDER = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


@pytest.fixture
def folder():
    """A folder that users without privileges can read too."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def packages(folder):
    """A function that runs .ci/packages where just some of this machine's programs are found.

    It finds no package manager, so it can't change this machine.
    """
    script = shutil.copy(ROOT / ".ci" / "packages", folder)
    path = folder / "bin"
    path.mkdir()

    def packages(purpose, *, tools=(), prefix=(), python=sys.executable, **environment):
        for name in ("env", "id", "tr", "uname", *tools):
            if found := shutil.which(name, path=EVERY_FOLDER):
                (path / name).symlink_to(found)
        return subprocess.run(
            [*prefix, script, purpose], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": str(path), "PYTHON": python, **environment})

    packages.path = path  # type: ignore[attr-defined]
    return packages


@pytest.fixture
def source(tmp_path):
    """A copy of the sources, without what builds, tests and git leave beside them."""
    return shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(
        ".git", ".gitignore", ".venv*", ".*_cache", ".hypothesis", "build", "dist", "PKG-INFO",
        "setup.cfg", "*.egg-info", "__pycache__", "*.so"))


@pytest.mark.parametrize(("manager", "python", "command"), [
    ("apt-get", "python3",
     "apt-get update -qq && apt-get install -qq --no-install-recommends gcc libc6-dev pkg-config "
     "libvirt-dev python3 python3-venv python3-dev"),
    ("apt-get", "python3.12",
     "apt-get update -qq && apt-get install -qq --no-install-recommends gcc libc6-dev pkg-config "
     "libvirt-dev python3.12 python3.12-venv python3.12-dev"),
    ("dnf", "python3",
     "dnf install -y --setopt=install_weak_deps=False gcc pkgconf-pkg-config libvirt-devel "
     "python3 python3-devel"),
    ("zypper", "python3",
     "zypper --non-interactive install --no-recommends gcc pkg-config libvirt-devel "
     "python3 python3-devel"),
    ("zypper", "python3.12",
     "zypper --non-interactive install --no-recommends gcc pkg-config libvirt-devel "
     "python312 python312-devel"),
    ("apk", "python3",
     "apk add --update-cache gcc musl-dev pkgconf libvirt-dev python3 py3-pip python3-dev"),
])
def test_without_privileges_the_exact_command_is_printed(packages, manager, python, command):
    # Its name is all that is ever used of it: nothing is installed without privileges.
    (packages.path / manager).touch(mode=0o755)
    nobody = []
    if os.geteuid() == 0:
        nobody = [shutil.which("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]

    result = packages("build", prefix=nobody, python=python)

    assert result.stderr == (
        "pyvirhost: this machine lacks a C compiler, pkg-config, libvirt's headers (7.0 or newer), "
        f"{python} (3.11 or newer, with venv and its headers); as root, run:\n    {command}\n")
    assert result.stdout == ""
    assert result.returncode == 1


@pytest.mark.parametrize(("purpose", "tools", "changes", "lacks"), [
    ("build", ["pkg-config"], {}, "a C compiler"),
    ("build", ["cc"], {}, "pkg-config, libvirt's headers (7.0 or newer)"),
    ("build", BUILD_TOOLS, NO_LIBVIRT, "libvirt's headers (7.0 or newer)"),
    ("build", BUILD_TOOLS, {"python": "/nowhere"},
     "/nowhere (3.11 or newer, with venv and its headers)"),
    ("test", [tool for tool in TEST_TOOLS if tool != "virsh"], {}, "virsh"),
    ("test", [tool for tool in TEST_TOOLS if tool != "valgrind"], {}, "valgrind"),
    ("bench", [tool for tool in BENCH_TOOLS if tool != "setpriv"], {}, "setpriv and unshare"),
])
def test_each_thing_missing_is_named(packages, purpose, tools, changes, lacks):
    result = packages(purpose, tools=tools, **changes)

    assert result.stderr == (
        f"pyvirhost: this machine lacks {lacks}; install that with its own package manager.\n")
    assert result.stdout == ""
    assert result.returncode == 1


@pytest.mark.parametrize(("purpose", "tools"), [
    ("build", BUILD_TOOLS), ("test", TEST_TOOLS), ("bench", BENCH_TOOLS),
])
def test_where_nothing_is_missing_nothing_is_said(packages, purpose, tools):
    result = packages(purpose, tools=tools)

    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def build_sdist(source, folder):
    """Build the sdist at a date of its own where not even git is found, and return its path."""
    done = subprocess.run(
        [sys.executable, ".ci/sdist.py", folder], cwd=source, check=True, capture_output=True,
        text=True, env={**os.environ, "PATH": "/nowhere", "SOURCE_DATE_EPOCH": "1000000000"})
    return Path(done.stdout.strip())


def test_an_sdist_is_whole_and_needs_no_libvirt(source, tmp_path):
    promised = {
        str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}

    with tarfile.open(build_sdist(source, tmp_path)) as tar:
        files = {name.partition("/")[2] for name in tar.getnames()}

    assert "tests/conftest.py" in promised
    assert promised - files == set()
    assert not [name for name in files if name.endswith(".so") or "__pycache__" in name]


def test_two_sdists_of_the_same_sources_are_the_same(source, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(source, again, copy_function=shutil.copyfile)  # with dates and modes of its own
    (again / "pyvirhost" / "leftover.so").touch()
    for script in (source / ".ci").iterdir():
        shutil.copymode(script, again / ".ci" / script.name)

    first = build_sdist(source, tmp_path / "one").read_bytes()

    assert first == build_sdist(again, tmp_path / "two").read_bytes()
    assert first == build_sdist(source, tmp_path / "three").read_bytes()


@pytest.mark.parametrize(("without", "missing", "package"), [
    (NO_LIBVIRT, "libvirt's headers are missing", "apt install libvirt-dev "),
    ({"PATH": "/nowhere"}, "pkg-config is missing", "apt install pkg-config "),
])
def test_a_build_says_what_to_install(source, without, missing, package):
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "lib", "--build-temp", "c"],
        cwd=source, env={**os.environ, **without}, capture_output=True, text=True)

    [line] = result.stderr.splitlines()
    assert line.startswith(f"pyvirhost: {missing}; install ")
    assert package in line
    assert result.stdout == ""
    assert result.returncode == 1


# A chroot whose root is no mount, with all that the system has but /etc/libvirt.
BARE = """\
root=$1
shift
for path in /*; do
    if [ $path = /etc ]; then
        cp -a /etc $root
    elif [ -h $path ]; then
        cp -P $path $root
    elif [ -d $path ]; then
        mkdir $root$path
        mount --rbind $path $root$path
    fi
done
rm -rf $root/etc/libvirt
exec chroot $root "$@"
"""
START = """\
from daemon import Daemon
with Daemon(privileged=True) as daemon:
    assert daemon.process.poll() is None
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts daemons with privileges")
def test_a_privileged_daemon_starts_on_a_bare_machine(folder):
    result = subprocess.run(
        with_own_mounts(BARE, folder, sys.executable, "-c", START),
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")})

    assert (result.stderr, result.returncode) == ("", 0)
    assert not (folder / "etc" / "libvirt").exists()

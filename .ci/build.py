"""Builds of the package in folders of their own, with faults planted in a copy of the sources."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(folder, *options, faults=()):
    """Build the package into a folder, and return where Python finds it.

    Each of the `faults` is a module, what stands there, and what is to stand there instead.
    """
    source, target = folder / "source", folder / "package"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("include", "pyvirhost"):
        shutil.copytree(ROOT / name, source / name,
                        ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for module, sound, planted in faults:
        path = source / "pyvirhost" / module
        text = path.read_text()
        if sound not in text:
            sys.exit(f"no place in {path} to plant a fault: {sound}")
        path.write_text(text.replace(sound, planted))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", target, "build_ext",
         "--build-lib", target, "--build-temp", folder / "temp", "--parallel=2", *options],
        cwd=source, check=True)
    return target

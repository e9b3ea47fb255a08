#!/usr/bin/env python3
"""Build the sdist into a folder and print its path: .ci/sdist.py FOLDER.

The same commit gives the same bytes, wherever and whenever: setuptools writes the time of the
build, its user and the files' own times, so the archive is packed again without them.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).parents[1]


def date():
    """Return SOURCE_DATE_EPOCH, or the time of the commit, or of the sdist that this is part of."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    if (ROOT / "PKG-INFO").exists():
        return int((ROOT / "PKG-INFO").stat().st_mtime)
    return int(subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True))


def pack_again(path, date):
    new = path.with_suffix(".new")
    with (tarfile.open(path) as old, new.open("wb") as file,
          gzip.GzipFile("", "wb", fileobj=file, mtime=date) as zipped,
          tarfile.open(fileobj=zipped, mode="w") as tar):
        for member in sorted(old, key=lambda member: member.name):
            same = tarfile.TarInfo(member.name)
            same.type, same.size, same.mtime = member.type, member.size, date
            same.mode = 0o755 if member.mode & 0o100 else 0o644
            tar.addfile(same, old.extractfile(member))
    new.replace(path)


def build(folder):
    """Build the sdist into that folder and return its path."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    # setuptools would take over the files of the list that an earlier build left there.
    shutil.rmtree("pyvirhost.egg-info", ignore_errors=True)
    output, sys.stdout = sys.stdout, sys.stderr
    try:
        path = folder / build_meta.build_sdist(str(folder), {"--global-option": ["--quiet"]})
    finally:
        sys.stdout = output
    pack_again(path, date())
    return path


if __name__ == "__main__":
    print(build(*sys.argv[1:]))

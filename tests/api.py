"""libvirt's own description of libvirt-host.h, which comes with its headers."""

import functools
import subprocess
from xml.etree import ElementTree


@functools.cache
def symbols():
    """The elements of libvirt-host.h and virterror.h in libvirt's API description."""
    path = subprocess.run(["pkg-config", "--variable=libvirt_api", "libvirt"],
                          capture_output=True, text=True, check=True).stdout.strip()
    return list(ElementTree.parse(path).getroot().find("symbols"))


def named(tag, file="libvirt-host"):
    """The elements of one kind, by name."""
    return {symbol.get("name"): symbol for symbol in symbols()
            if symbol.tag == tag and symbol.get("file") == file}


def version(text):
    return tuple(int(part) for part in text.split("."))

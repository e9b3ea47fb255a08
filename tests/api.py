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


def since(function):
    """The version that brought a function, or None where the description has none, as up to 7.0."""
    found = named("function")[function].get("version")
    assert found or not any(other.get("version") for other in named("function").values())
    return found

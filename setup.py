"""Find libvirt and compile the extension modules; everything else stands in pyproject.toml."""

import sys
from glob import glob
from typing import ClassVar

import pkgconfig
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBVIRT = ">= 7.0.0"
MODULES = ("_errors", "_results", "_events", "_connection")
DECLARATIONS = sorted(glob("include/*") + glob("pyvirhost/*.px[di]"))
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,
    "auto_pickle": False,
    "autotestdict": False,
    # Methods of C's kind: Cython's own take any object for self and crash (cython/cython#1903).
    # inspect takes their signatures from the docstrings.
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "freethreading_compatible": True,
}
INSTALL_HINT = (
    "install {what}: apt install {apt} (Debian, Ubuntu), dnf install {dnf} (Fedora), "
    "zypper install {dnf} (openSUSE) or apk add {apk} (Alpine)."
)


class BuildExtensions(build_ext):
    """Build against the installed libvirt, which no other command needs."""

    user_options: ClassVar = [
        *build_ext.user_options,
        ("strict", None, "treat every warning of Cython and of the C compiler as an error"),
        ("sanitize=", None, "what -fsanitize= is to check in the code that runs"),
    ]
    boolean_options: ClassVar = [*build_ext.boolean_options, "strict"]

    def initialize_options(self):
        super().initialize_options()
        self.strict = False
        self.sanitize = None

    def build_extensions(self):
        libvirt = find_libvirt()
        directives = dict(DIRECTIVES)
        flags = []
        if self.strict:
            from Cython.Compiler import Options

            Options.warning_errors = True
            directives.update(Options.extra_warnings)
            flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
                     "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
        if self.sanitize:
            sanitize = [f"-fsanitize={self.sanitize}", "-fno-sanitize-recover=all"]
            # Python's own flags let signed ints wrap around, which UBSan then takes for intended.
            flags += [*sanitize, "-fno-wrapv", "-fno-omit-frame-pointer", "-O1", "-g"]
        for extension in self.extensions:
            extension.cython_directives = directives
            extension.include_dirs += ["include", *libvirt["include_dirs"]]
            extension.library_dirs += libvirt["library_dirs"]
            extension.libraries += libvirt["libraries"]
            extension.extra_compile_args += flags
            if self.sanitize:
                extension.extra_link_args += sanitize
        self.cython_c_in_temp = True
        super().build_extensions()


def find_libvirt():
    """Return the compiler's settings for libvirt, or stop with one sentence on what to install."""
    try:
        found = pkgconfig.installed("libvirt", LIBVIRT)
    except OSError:
        sys.exit("pyvirhost: pkg-config is missing; " + INSTALL_HINT.format(
            what="it", apt="pkg-config", dnf="pkgconf-pkg-config", apk="pkgconf"))
    if found:
        return pkgconfig.parse("libvirt")
    if pkgconfig.exists("libvirt"):
        version = pkgconfig.modversion("libvirt")
        problem = f"libvirt's headers are {version}, but {LIBVIRT} are needed"
    else:
        problem = "libvirt's headers are missing"
    sys.exit(f"pyvirhost: {problem}; " + INSTALL_HINT.format(
        what="them", apt="libvirt-dev", dnf="libvirt-devel", apk="libvirt-dev"))


setup(
    cmdclass={"build_ext": BuildExtensions},
    ext_modules=[
        Extension(f"pyvirhost.{name}", [f"pyvirhost/{name}.pyx"], depends=DECLARATIONS)
        for name in MODULES
    ],
)

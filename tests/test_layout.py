"""The layout: imports go one way, without a circle, and no module is too long to read."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyvirhost"
# From the bottom to the top; what is in none of the folders is the binding.
FLOORS = ("binding", "values", "poll", "cli")
LONGEST = 700


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = SOURCES.keys() | {name_of(path) for path in PACKAGE.glob("*.pyx")}


def imports_of(name):
    """The package's modules that a module imports, wherever in it, and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: write out what is imported"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    # The package itself resolves public names on their first use, and imports nothing.
    return {module for module in found if module in MODULES} - {"pyvirhost", name}


def floor(name):
    part = name.removeprefix("pyvirhost").removeprefix(".").partition(".")[0]
    if part == "__main__":
        part = "cli"
    return FLOORS.index(part if part in FLOORS else "binding")


GRAPH = {name: imports_of(name) for name in SOURCES}


def test_imports_are_found_wherever_they_are():
    assert GRAPH["pyvirhost.cli.commands.live"] >= {"pyvirhost.cli.top.app", "pyvirhost.poll.host"}
    assert "pyvirhost._connection" in GRAPH["pyvirhost.poll.host"]


@pytest.mark.parametrize("name", GRAPH)
def test_no_import_goes_up(name):
    assert [module for module in GRAPH[name] if floor(module) > floor(name)] == []


def test_there_is_no_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_is_short_enough_to_read(name):
    assert SOURCES[name].read_text().count("\n") <= LONGEST


def test_every_folder_is_installed():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {name_of(path) for path in PACKAGE.rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders

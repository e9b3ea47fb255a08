"""What the docstrings and the README promise to say."""

import inspect
import re
from pathlib import Path

import pytest
from api import since
from test_connection import CALLS

import pyvirhost

README = (Path(__file__).parent.parent / "README.md").read_text()
FUNCTIONS = {f"pyvirhost.{name}": getattr(pyvirhost, name)
             for name in ("initialize", "lib_version", "open")}
METHODS = {f"Connection.{name}": getattr(pyvirhost.Connection, name) for name in (*CALLS, "close")}
CALLABLES = {**FUNCTIONS, **METHODS}


@pytest.mark.parametrize("name", CALLABLES)
def test_a_docstring_says_what_is_called_since_when_and_what_it_costs(name):
    text = inspect.getdoc(CALLABLES[name])
    summary, blank, *_ = text.splitlines()
    assert re.fullmatch(r"[A-Z][a-z]+\b.+\.", summary)
    assert not blank
    _, _, notes = text.partition("Notes\n-----\n")
    notes = " ".join(notes.split())
    pairs = re.findall(
        r"``(vir\w+)``(?:,? and ``(vir\w+)``)?, since libvirt (\d+\.\d+\.\d+)", notes)
    assert pairs, "names no C function with its version"
    for first, second, stated in pairs:
        for function in filter(None, (first, second)):
            assert since(function) in (stated, None)
    assert re.search(r"\b(no|\d) round trips?\b", notes)


@pytest.mark.parametrize("name", CALLABLES)
def test_a_docstring_names_every_parameter(name):
    text = inspect.getdoc(CALLABLES[name])
    parameters = [parameter for parameter in inspect.signature(CALLABLES[name]).parameters
                  if parameter != "self"]
    _, _, section = text.partition("Parameters\n----------\n")
    section = section.partition("\n\n")[0]
    documented = [name for line in re.findall(r"^(\w[\w, ]*) :", section, re.MULTILINE)
                  for name in line.split(", ")]
    assert documented == parameters


@pytest.mark.parametrize(
    "name", sorted(set(pyvirhost.__all__) - {"SnapshotField", "__version__", "aio", "constants"}))
def test_every_public_name_has_a_docstring(name):
    value = getattr(pyvirhost, name)
    if not isinstance(value, (int, tuple)):
        assert inspect.getdoc(value)
        for attribute in vars(value) if inspect.isclass(value) else ():
            if not attribute.startswith("_") and not isinstance(value, type(pyvirhost.ErrorCode)):
                # The fields of a dataclass stand in the docstring of their class.
                fields = getattr(value, "__dataclass_fields__", ())
                text = value if attribute in fields else getattr(value, attribute)
                assert inspect.getdoc(text), f"{name}.{attribute}"
                assert attribute not in fields or attribute in inspect.getdoc(text)


def test_the_readme_has_a_row_for_every_function():
    rows = re.findall(r"^\| (`vir\w+`.*?) \| (`.+?`) \|", README, re.MULTILINE)
    c_names = {name for row, _ in rows for name in re.findall(r"vir\w+", row)}
    python_names = {name for _, row in rows for name in re.findall(r"`([\w.]+)\(", row)}
    documented = {name for function in CALLABLES.values()
                  for name in re.findall(r"``(vir\w+)``", inspect.getdoc(function))}
    assert c_names == documented
    assert {name.removeprefix("Connection.") for name in CALLABLES} == python_names

"""The examples of the README, run against a private daemon."""

import ast
import asyncio
import concurrent.futures
import inspect
import re
from pathlib import Path

import numpy
import pytest

import pyvirhost

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
URI = re.compile(r"qemu(\+\w+)?://\w*/system")


class Patient(pyvirhost.Poller):
    """A poller that stops after a few samples, where the README's goes on for ever."""

    def __init__(self, hosts, **settings):
        super().__init__(hosts, **{**settings, "interval": 0.2})
        self.left = 6

    def __next__(self):
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return super().__next__()


def ask(credentials):
    return None


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0][:40])
def test_an_example_of_the_readme_runs(example, daemon, monkeypatch, capsys):
    monkeypatch.setattr(pyvirhost, "Poller", Patient)
    with pyvirhost.open(daemon.qemu_uri) as host:
        names = {"pyvirhost": pyvirhost, "numpy": numpy, "asyncio": asyncio, "ask": ask,
                 "concurrent": concurrent, "read_password": lambda: "secret", "host": host}
        code = compile(URI.sub(daemon.qemu_uri, example), "README.md", "exec",
                       ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
        if isinstance(names["host"], pyvirhost.Connection):
            names["host"].close()  # which an example may leave to its reader
    if re.search(r"^ *print\(", example, re.MULTILINE):
        assert capsys.readouterr().out

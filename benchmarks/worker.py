"""Processes of their own: a module that measures is run as ``python -m``, and answers in JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 900  # seconds, many times what any takes on an idle machine


def ask(module, python=sys.executable, preload=None, environment=None, **wanted):
    """Run the module's `measure` with these arguments in a new process and return its answer."""
    environment = {**os.environ, **(environment or {})}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    done = subprocess.run([python, "-m", f"benchmarks.{module}", json.dumps(wanted)], cwd=ROOT,
                          env=environment, stdout=subprocess.PIPE, text=True, check=True,
                          timeout=LIMIT)
    return json.loads(done.stdout)


def answer(measure):
    """Do in the new process what `ask` wants of it."""
    json.dump(measure(**json.loads(sys.argv[1])), sys.stdout)

"""The mathematics as a library of its own: light to import, with an example that runs."""

import doctest
import json
import subprocess
import sys

import drift.functional

# What every module of the package loads beside torch, jaxtyping and the standard library.
BESIDE_TORCH = """
import importlib, json, pkgutil, sys
import jaxtyping, torch
before = set(sys.modules)
import drift.functional
for module in pkgutil.iter_modules(drift.functional.__path__, "drift.functional."):
    importlib.import_module(module.name)
new = set(sys.modules) - before
print(json.dumps([m for m in new if m.partition(".")[0] not in sys.stdlib_module_names]))
"""


def test_the_functions_load_torch_and_jaxtyping_only():
    command = [sys.executable, "-c", BESIDE_TORCH]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert {"drift.functional.coverage", "drift.functional.diversity"} <= loaded
    assert {m for m in loaded if not m.startswith("drift.functional")} == {"drift"}


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(drift.functional)
    assert result.attempted >= 5
    assert result.failed == 0

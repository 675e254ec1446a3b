"""The package installed and built: light to import, no torchvision, complete in the wheel."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import drift

ROOT = Path(__file__).parents[1]


def requirements(distribution: str, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution, installed with these extras, asks for on this platform."""
    parsed = [Requirement(line) for line in metadata.requires(distribution) or []]
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [r for r in parsed if r.marker is None or any(map(r.marker.evaluate, environments))]


def closure(distribution: str, extras: frozenset[str]) -> set[str]:
    """Names of everything the distribution pulls in, as far as it is installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(distribution, extras)]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found = requirements(name, wanted)
        except metadata.PackageNotFoundError:  # belongs to an extra that is not installed
            continue
        todo += [(canonicalize_name(r.name), frozenset(r.extras)) for r in found]
    return {name for name, _ in seen}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


EXTRAS = frozenset(metadata.metadata("drift-rft").get_all("Provides-Extra") or [])


def test_torchvision_is_not_installed():
    assert importlib.util.find_spec("torchvision") is None


def test_nothing_we_depend_on_asks_for_torchvision():
    pulled_in = closure("drift-rft", EXTRAS)
    assert {"torch", "diffusers", "transformers", "peft", "tokenizers", "pytest"} <= pulled_in
    assert "torchvision" not in pulled_in


def test_import_is_light():
    watched = ["torch", "torchvision", "numpy", "diffusers", "transformers", "peft", "pydantic"]
    code = f"import drift, json, sys; print(json.dumps([m for m in {watched} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_version_is_the_installed_one():
    assert metadata.version("drift-rft") == drift.__version__


def test_every_requirement_is_pinned_within_its_range():
    direct = requirements("drift-rft", EXTRAS)
    wrong = {
        r.name: pins().get(canonicalize_name(r.name))
        for r in direct
        if pins().get(canonicalize_name(r.name), "0") not in r.specifier
    }
    assert wrong == {}


def test_pins_carry_no_local_label():
    # torch==2.13.0 takes the platform's own build; 2.13.0+cpu exists on one index only.
    assert "torch" in pins()
    plain = re.compile(r"[0-9]+(\.[0-9]+)*(b[0-9]+)?")  # wandb asks for packages still in beta
    labelled = {n: v for n, v in pins().items() if not plain.fullmatch(v)}
    assert labelled == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """Names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_ships_every_file_of_the_package_and_no_other(wheel):
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "drift").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"drift/__init__.py", "drift/py.typed"} <= files
    assert {name for name in wheel if ".dist-info/" not in name} == files


def test_wheel_ships_licence_and_attributions(wheel):
    licences = {name.split("/licenses/")[1] for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_notice_names_every_set_of_artwork():
    notice = (ROOT / "NOTICE").read_text()
    for name in ("@iconify-json/noto", "@iconify-json/fluent-emoji", "@twemoji/svg"):
        assert name in notice
    for licence in ("Apache License, Version 2.0", "MIT License", "CC BY 4.0"):
        assert licence in notice

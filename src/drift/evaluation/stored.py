"""Evaluations as they lie in a run folder: where, whether they are whole, and what they are of."""

import re
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from drift.errors import UserError
from drift.files.manifest import MANIFEST, Damaged, check_files, read_manifest
from drift.files.records import parse_object, settings_difference

FORMAT = 1  # of metrics.json; an evaluation of another format is done again
DEFAULT = "default"  # the evaluation that nobody named, which lies in `evaluations` itself
METRICS = "metrics.json"
FILES = (METRICS, "images.npz", "features.safetensors")  # besides a sheet of the pictures
NAME = re.compile(r"(?!evaluations$|step-)[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")


def check_name(name: str) -> None:
    """Refuse a name of an evaluation that is none of a folder, or has another meaning there."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"name: '{name}' is refused: up to 60 letters, digits, '-', '_' and '.', beginning "
            "with a letter or digit; not 'evaluations', and not 'step-...'"
        )


def evaluations_folder(run: Path, name: str = DEFAULT) -> Path:
    """Where the evaluation of this name lies, a folder for each step."""
    return run / "evaluations" / ("" if name == DEFAULT else name)


def evaluation_folder(run: Path, step: int, name: str = DEFAULT) -> Path:
    return evaluations_folder(run, name) / f"step-{step:06d}"


def run_of(folder: Path) -> Path:
    """The run of an evaluation's folder."""
    return folder.parents[1 if folder.parent.name == "evaluations" else 2]


def evaluation_names(run: Path) -> list[str]:
    """Of the evaluations that a run has."""
    inner = (run / "evaluations").glob("*/step-*/metrics.json")
    named = sorted({file.parents[1].name for file in inner} - {DEFAULT})
    return [DEFAULT, *named] if list_evaluations(run) else named


def examine_evaluation(folder: Path) -> dict[str, Any] | str:
    """The metrics of a complete evaluation of the present format, or in a phrase what is wrong.

    (Those from before there were checksums are taken as they are; later ones say that they have.)
    """
    try:
        metrics = parse_object((folder / METRICS).read_bytes())
        if (folder / MANIFEST).exists() or metrics.get("sealed"):
            check_files(folder, read_manifest(folder, required=FILES, old={"files"}))
        if folder.name != f"step-{metrics['step']:06d}":
            return f"says that it is of step {metrics['step']}, unlike its name"
        return metrics if metrics["format"] == FORMAT else "is of another format"
    except Damaged as error:
        return str(error)
    except ValueError as error:
        return f"'{METRICS}' is damaged: {error}"
    except (OSError, KeyError, TypeError) as error:
        return f"is incomplete ({type(error).__name__}: {error})"


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The metrics of a complete evaluation of the present format; None if there is none."""
    found = examine_evaluation(folder)
    return None if isinstance(found, str) else found


def read_pictures(folder: Path) -> UInt8[np.ndarray, "P N H W 3"]:
    """What a complete evaluation drew."""
    path = folder / "images.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; remove it, to draw it anew") from error


def read_features(folder: Path, encoder: str) -> Float[Tensor, "P N D"]:
    """What an encoder saw in the pictures of a complete evaluation."""
    path = folder / "features.safetensors"
    try:
        with safe_open(path, "pt") as tensors:
            return tensors.get_tensor(encoder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {encoder} in {path}: {error}") from error


def list_evaluations(
    run: Path, name: str = DEFAULT, tell: Callable[[str], object] = str
) -> dict[int, dict[str, Any]]:
    """Step -> metrics of every complete evaluation of a run under this name, in order.

    `tell` gets a line of every other that is left out.
    """
    read: dict[int, dict[str, Any]] = {}
    for folder in sorted(evaluations_folder(run, name).glob("step-*")):
        found = examine_evaluation(folder)
        if isinstance(found, str):
            tell(f"left out {folder}: {found}")
        else:
            read[found["step"]] = found
    return read


def first_difference(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    ignore: Collection[str] = (),
    told: str = "{} and {}",
) -> str | None:
    """The first setting in which they differ, or that they are of different base models."""
    different = settings_difference(ours["settings"], theirs["settings"], ignore, told)
    if different is None and ours["model"]["sha256"] != theirs["model"]["sha256"]:
        names = told.format(ours["model"]["name"], theirs["model"]["name"])
        return f"base model ({names}: other weights)"
    return different


def is_same(folder: Path, wanted: dict[str, Any], ignore: Collection[str] = ()) -> bool:
    """Whether the folder holds a complete evaluation of these settings and these very weights."""
    found = read_evaluation(folder)
    if found is None or found["adapter"] != wanted["adapter"]:
        return False
    return first_difference(found, wanted, ignore) is None

"""Read what lies in a run folder: its checkpoints, its evaluations, the course of its training."""

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from drift.config import TrainConfig, load_run_config, validate
from drift.errors import UserError
from drift.training.checkpoint import Checkpoint, list_checkpoints
from drift.training.tracking import read_metrics

FORMAT = 1  # of metrics.json; an evaluation of another format is done again


def is_run(target: Path) -> bool:
    return (target / "config.yaml").is_file()


def choose_checkpoints(run: Path, which: str) -> list[Checkpoint]:
    """'all', 'last', 'base' (none), or epochs such as '20,40' (0 is the base model, so none)."""
    valid, damaged = list_checkpoints(run)
    for line in damaged:
        tqdm.write(f"skipped {line}")
    if which == "base":
        return []
    if which in ("all", "last"):
        if not valid:
            raise UserError(f"{run} has no complete checkpoint yet")
        return valid if which == "all" else valid[-1:]
    try:
        epochs = sorted({int(part) for part in which.split(",")})
    except ValueError:
        raise UserError(f"checkpoints: '{which}' is not all, last, base, or epochs") from None
    known = {checkpoint.epoch: checkpoint for checkpoint in valid}
    missing = [epoch for epoch in epochs if epoch and epoch not in known]
    if missing:
        listed = ", ".join(map(str, known)) or "none"
        raise UserError(f"checkpoints: {run} has none of epoch {missing[0]}; it has {listed}")
    return [known[epoch] for epoch in epochs if epoch]


def open_target(target: Path, changes: dict[str, Any]) -> TrainConfig:
    """The configuration of a run, or one around a plain model; changes are to its `evaluation`."""
    if is_run(target):
        raw = TypeAdapter(TrainConfig).dump_python(load_run_config(target), mode="json")
    else:
        raw = {"prompts": "", "reward": "", "method": {}, "model": {"name": str(target)}}
    raw["evaluation"] = {**raw.get("evaluation", {}), **changes}
    return validate(raw, source=str(target))


def evaluation_folder(run: Path, step: int) -> Path:
    return run / "evaluations" / f"step-{step:06d}"


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The metrics of a complete evaluation of the present format; None if there is none."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if metrics.get("format") == FORMAT else None


def read_pictures(folder: Path) -> UInt8[np.ndarray, "P N H W 3"]:
    """What a complete evaluation drew."""
    path = folder / "images.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["images"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; remove it, to draw it anew") from error


def read_features(folder: Path, encoder: str) -> Float[Tensor, "P N D"]:
    """What an encoder saw in the pictures of a complete evaluation."""
    path = folder / "features.safetensors"
    try:
        with safe_open(path, "pt") as stored:
            return stored.get_tensor(encoder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {encoder} in {path}: {error}") from error


def list_evaluations(run: Path) -> dict[int, dict[str, Any]]:
    """Step -> metrics of every complete evaluation of a run, in order."""
    folders = sorted((run / "evaluations").glob("step-*"))
    read = [metrics for folder in folders if (metrics := read_evaluation(folder))]
    return {metrics["step"]: metrics for metrics in read}


def settings_difference(
    one: dict[str, Any], two: dict[str, Any], ignore: Collection[str] = ()
) -> str | None:
    """Name and values of the first setting in which two evaluations differ, in one short line."""
    for key in {**one, **two}:
        here, there = one.get(key), two.get(key)
        if key not in ignore and here != there:
            if isinstance(here, dict) and isinstance(there, dict):
                return f"{key}: {settings_difference(here, there)}"
            return f"{key} ({_shorten(here)} and {_shorten(there)})"
    return None


def first_difference(
    ours: dict[str, Any], theirs: dict[str, Any], ignore: Collection[str] = ()
) -> str | None:
    """The first setting in which they differ, or that they are of different base models."""
    different = settings_difference(ours["settings"], theirs["settings"], ignore)
    if different is None and ours["model"]["sha256"] != theirs["model"]["sha256"]:
        names = f"{ours['model']['name']} and {theirs['model']['name']}"
        return f"base model ({names}: other weights)"
    return different


def is_same(folder: Path, wanted: dict[str, Any], ignore: Collection[str] = ()) -> bool:
    """Whether the folder holds a complete evaluation of these settings and these very weights."""
    found = read_evaluation(folder)
    if found is None or found["adapter"] != wanted["adapter"]:
        return False
    return first_difference(found, wanted, ignore) is None


def _shorten(value: Any, length: int = 60) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def read_training(run: Path) -> list[dict[str, Any]]:
    """One point per epoch: images sampled, reward, diversity, and seconds spent so far.

    Beside them stand all plain numbers of metrics.jsonl by their own names, as the mean over the
    epoch's updates. A last line that was cut off while being written is left out.
    """
    epochs: dict[int, list[dict[str, Any]]] = {}
    for line in read_metrics(run):
        epochs.setdefault(line["epoch"], []).append(line)
    points, seconds = [], 0.0
    for epoch, updates in epochs.items():
        last = updates[-1]
        spent = last["seconds"]
        seconds += sum(spent.values()) if isinstance(spent, dict) else spent
        names = [name for name, value in last.items() if isinstance(value, int | float)]
        points.append(
            {name: fmean(line[name] for line in updates) for name in names}
            | {
                "epoch": epoch,
                "images": last["images_sampled"],
                "reward": last["reward_mean"],
                "diversity": last["diversity"],
                "seconds": seconds,
            }
        )
    return points

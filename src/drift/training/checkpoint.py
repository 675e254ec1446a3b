"""Save and load the state of a run, so that a kill at any moment costs at most the work since.

A checkpoint is written under a temporary name, synced, given a manifest with checksums last, and
renamed into place. Only safetensors and JSON: nothing is unpickled.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.files.checksums import checksum
from drift.training.average import averaged, load_trained, save_trained

# What is trained, by the names that diffusers looks for: a LoRA, or a whole network.
WEIGHTS = ("pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A complete, verified checkpoint folder."""

    folder: Path
    epoch: int  # epochs finished

    @property
    def weights(self) -> Path:
        """The file of what is trained."""
        return next(path for name in WEIGHTS if (path := self.folder / name).is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(
    run: Path,
    epoch: int,
    model,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any] | None = None,
    average: EMAModel | None = None,
) -> Path:
    """Write `run/checkpoints/step-<epoch>`; returns the folder. `state`: JSON-able, small.

    With an `average`, the weights that others load are the averaged ones.
    """
    target = run / "checkpoints" / f"step-{epoch:06d}"
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with averaged(average, model.trainable_parameters()):
        model.save_weights(partial)
    if average:
        save_trained(average, model.trainable_parameters(), partial)
    moments = optimizer.state_dict()["state"]
    flat = {f"{i}.{key}": value for i, row in moments.items() for key, value in row.items()}
    save_file({k: v.cpu().contiguous() for k, v in flat.items()}, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps(state or {}))
    files = {file.name: checksum(file) for file in sorted(partial.iterdir())}
    manifest = {"epoch": epoch, "files": files}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _sync(target.parent)
    return target


def read_checkpoint(folder: Path) -> Checkpoint | str:
    """The verified checkpoint, or in one phrase what is wrong with it."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                return f"names a file outside itself: '{name}'"
            if checksum(folder / name) != expected:
                return f"'{name}' is damaged"
        return Checkpoint(folder, int(manifest["epoch"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is incomplete ({type(error).__name__}: {error})"


def list_checkpoints(run: Path) -> tuple[list[Checkpoint], list[str]]:
    """Valid checkpoints, oldest first, and a line for each damaged one."""
    found = [(f, read_checkpoint(f)) for f in sorted((run / "checkpoints").glob("step-*"))]
    valid = [c for _, c in found if isinstance(c, Checkpoint)]
    return valid, [f"{folder}: {c}" for folder, c in found if isinstance(c, str)]


def delete_checkpoints(run: Path, doomed: Sequence[Checkpoint]) -> None:
    """Each loses its name first, then its files: a kill in between leaves none half deleted.

    What such a kill did leave goes as well.
    """
    for left in (run / "checkpoints").glob(".*.deleted"):
        shutil.rmtree(left)
    for checkpoint in doomed:
        nameless = checkpoint.folder.with_name(f".{checkpoint.folder.name}.deleted")
        shutil.rmtree(checkpoint.folder.rename(nameless))


def load_checkpoint(
    checkpoint: Checkpoint,
    model,
    optimizer: torch.optim.Optimizer,
    average: EMAModel | None = None,
) -> dict[str, Any]:
    """Restore weights, optimizer and average in place; returns the JSON-able state beside them."""
    model.load_weights(checkpoint.folder)
    if average:
        load_trained(average, model.trainable_parameters(), checkpoint.folder)
    flat = load_file(checkpoint.folder / "optimizer.safetensors")
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    if moments and len(moments) != len(groups[0]["params"]):
        raise UserError(
            f"{checkpoint.folder}: optimizer state of {len(moments)} tensors does not fit"
        )
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, row in optimizer.state.items():
        for key, value in row.items():
            if value.shape == parameter.shape:  # in the parameter's order of memory, as before
                row[key] = torch.empty_like(parameter).copy_(value)
    return json.loads((checkpoint.folder / "state.json").read_text())

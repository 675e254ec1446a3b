"""Save and load the state of a run, so that a kill at any moment costs at most the work since.

A checkpoint is written under a temporary name, given its manifest last, synced, and renamed into
place. Only safetensors and JSON: nothing is unpickled.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from tqdm import tqdm

from drift.errors import UserError
from drift.files.manifest import Damaged, check_files, read_manifest, seal
from drift.files.records import read_object
from drift.files.weights import check_numbers, misfits_of, read_weights, refuse_misfits
from drift.files.writing import replacing
from drift.training.average import averaged, load_trained, save_trained

# What is trained, by the names that diffusers looks for: a LoRA, or a whole network.
WEIGHTS = ("pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors")
MOMENTS, STATE = "optimizer.safetensors", "state.json"
FIELD = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A complete, verified checkpoint folder."""

    folder: Path
    epoch: int  # epochs finished
    moments: int | None = None  # tensors of the optimizer; unknown of old ones

    @property
    def weights(self) -> Path:
        """The file of what is trained."""
        return next(path for name in WEIGHTS if (path := self.folder / name).is_file())


def folder_name(epoch: int) -> str:
    return f"step-{epoch:06d}"


def save_checkpoint(
    run: Path,
    epoch: int,
    model,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any] | None = None,
    average: EMAModel | None = None,
) -> Path:
    """Write `run/checkpoints/step-<epoch>`; returns the folder. `state`: JSON-able, small.

    With an `average`, the weights that others load are the averaged ones. Numbers that are not
    finite are an error, and nothing is written.
    """
    moments = {
        f"{i}.{key}": value.cpu().contiguous()
        for i, row in optimizer.state_dict()["state"].items()
        for key, value in row.items()
    }
    trained = model.trainable_parameters()
    if not all(tensor.isfinite().all() for tensor in (*trained, *moments.values())):
        raise _not_finite(run, epoch)
    target = run / "checkpoints" / folder_name(epoch)
    with replacing(target, field="output") as partial:
        partial.mkdir()
        with averaged(average, trained):
            model.save_weights(partial)
        if average:
            save_trained(average, trained, partial)
        save_file(moments, partial / MOMENTS)
        (partial / STATE).write_text(json.dumps(state or {}), encoding="utf-8")
        seal(partial, epoch=epoch, moments=len(moments))
    return target


def _not_finite(run: Path, epoch: int) -> UserError:
    last = newest_checkpoint(run)
    good = f"the last good checkpoint is {last.folder}" if last else "no checkpoint is there yet"
    return UserError(
        f"optimizer: weights or moments are not finite after epoch {epoch}, and are not saved; "
        f"{good}; begin anew with a smaller optimizer.learning_rate"
    )


def read_checkpoint(folder: Path, *, deep: bool = True) -> Checkpoint | str:
    """The verified checkpoint, or in one phrase what is wrong with it.

    Not `deep`: its names and manifest alone, and none of its files is read.
    """
    try:
        old = {"epoch", "files"}
        manifest = read_manifest(folder, required=(MOMENTS, STATE), old=old)
        epoch, files = manifest.get("epoch"), manifest["files"]
        if not isinstance(epoch, int) or folder.name != folder_name(epoch):
            return f"says that it is of epoch {epoch}, unlike its name"
        if not any(name in files for name in WEIGHTS):
            return f"is incomplete (FileNotFoundError: '{WEIGHTS[0]}')"
        if deep:
            check_files(folder, manifest)
        return Checkpoint(folder, epoch, manifest.get("moments"))
    except Damaged as error:
        return str(error)


def checkpoint_folders(run: Path) -> list[Path]:
    """Of whatever checkpoints there are, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def newest_checkpoint(run: Path, tell: Callable[[str], object] = str) -> Checkpoint | None:
    """The last that is whole; those before it are not read. `tell` gets a line of each after it."""
    for folder in reversed(checkpoint_folders(run)):
        found = read_checkpoint(folder)
        if isinstance(found, Checkpoint):
            return found
        tell(f"{folder}: {found}")
    return None


def skip(line: str) -> None:
    """Say that a checkpoint is damaged."""
    tqdm.write(f"skipped {line}")


def list_checkpoints(run: Path) -> tuple[list[Checkpoint], list[str]]:
    """Valid checkpoints, oldest first, and a line for each damaged one; all are read."""
    found = [(f, read_checkpoint(f)) for f in checkpoint_folders(run)]
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
    _load_moments(checkpoint, optimizer)
    return read_object(checkpoint.folder / STATE, field=FIELD)


def _load_moments(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """All of AdamW's, in float32 and finite; or none, of an optimizer that took no step."""
    file = checkpoint.folder / MOMENTS
    flat = read_weights(file, field=FIELD)
    groups = optimizer.state_dict()["param_groups"]
    wanted = dict(_wanted(optimizer))
    if flat or checkpoint.moments:
        misfits = misfits_of(flat, wanted)
        refuse_misfits(misfits, source=file, kind="the run's optimizer", field=FIELD)
        check_numbers(flat, source=file, field=FIELD)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, row in optimizer.state.items():
        for key, value in row.items():
            if value.shape == parameter.shape:  # in the parameter's order of memory, as before
                row[key] = torch.empty_like(parameter).copy_(value)


def _wanted(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and shapes of AdamW's moments."""
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        yield f"{index}.step", torch.empty(())
        yield f"{index}.exp_avg", parameter
        yield f"{index}.exp_avg_sq", parameter

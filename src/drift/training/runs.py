"""Read what training left in a run folder: its checkpoints and its course."""

from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from drift.config import TrainConfig, load_run_config, validate
from drift.errors import UserError
from drift.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    folder_name,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    skip,
)
from drift.training.tracking import read_metrics


def is_run(target: Path) -> bool:
    return (target / "config.yaml").is_file()


def choose_checkpoints(run: Path, which: str) -> list[Checkpoint]:
    """'all', 'last', 'base' (none), or epochs such as '20,40' (0 is the base model, so none).

    Those that are not asked for are not read, but those after the last one that is whole.
    """
    if which == "base":
        return []
    if which in ("all", "last"):
        valid = _all(run) if which == "all" else [newest_checkpoint(run, skip)]
        chosen = [checkpoint for checkpoint in valid if checkpoint]
        if not chosen:
            raise UserError(f"{run} has no complete checkpoint yet")
        return chosen
    try:
        epochs = sorted({int(part) for part in which.split(",")})
    except ValueError:
        raise UserError(f"checkpoints: '{which}' is not all, last, base, or epochs") from None
    return [_of_epoch(run, epoch) for epoch in epochs if epoch]


def _all(run: Path) -> list[Checkpoint]:
    valid, damaged = list_checkpoints(run)
    for line in damaged:
        skip(line)
    return valid


def _of_epoch(run: Path, epoch: int) -> Checkpoint:
    folder = run / "checkpoints" / folder_name(epoch)
    found = read_checkpoint(folder) if folder.is_dir() else ""
    if isinstance(found, Checkpoint):
        return found
    shallow = [read_checkpoint(other, deep=False) for other in checkpoint_folders(run)]
    others = [str(c.epoch) for c in shallow if isinstance(c, Checkpoint) and c.epoch != epoch]
    why = f" that is whole (it {found})" if found else ""
    listed = ", ".join(others) or "none"
    raise UserError(f"checkpoints: {run} has none of epoch {epoch}{why}; it has {listed}")


def open_target(target: Path, changes: dict[str, Any]) -> TrainConfig:
    """The configuration of a run, or one around a plain model; changes are to its `evaluation`."""
    if is_run(target):
        raw = TypeAdapter(TrainConfig).dump_python(load_run_config(target), mode="json")
    else:
        raw = {"prompts": "", "reward": "", "method": {}, "model": {"name": str(target)}}
    raw["evaluation"] = {**raw.get("evaluation", {}), **changes}
    return validate(raw, source=str(target))


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

"""TensorBoard and Weights & Biases: what metrics.jsonl and live.jsonl say, as curves.

A tracker shows the files and holds nothing of its own. One that begins late, or again, is first
told all that they hold already. The step is the number of updates so far: an epoch's updates share
their `images_sampled`, which is a curve of its own.

accelerate's trackers are not used: they would set up its process state, and are as long as these.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from drift.config import TrainConfig, to_yaml
from drift.errors import UserError
from drift.files.weights import read_json
from drift.files.writing import write_text
from drift.training.tracking import LIVE, METRICS, read_metrics

Log = Callable[[dict[str, float], int], None]  # values by name, and their step
History = list[tuple[dict[str, float], int]]  # the same, of what was there before
SECTIONS = {METRICS: "train", LIVE: "live"}


def scalars(line: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a line by their path, as in "train/advantages/total/mean".

    Lists (an entry a step), text and a look's settings are for the files alone.
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict) and key != "settings":
            found |= scalars(value, f"{prefix}/{key}")
        elif isinstance(value, int | float):
            found[f"{prefix}/{key}"] = float(value)
    return found


def step_of(line: dict[str, Any], updates_per_epoch: int) -> int:
    """How many updates there had been: up to this one, or before this look."""
    whole = updates_per_epoch * line["epoch"]
    return whole - updates_per_epoch + line["update"] if "update" in line else whole


def check_trackers(names: Sequence[str]) -> None:
    """Refuse, before anything is loaded, what is not installed or has nobody logged in."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # without one it is a mere folder of that name
            raise UserError(f"trackers: {name} is not here: pip install 'drift-rft[{name}]'")
    if "wandb" in names:
        import wandb

        with _wandb_errors():
            wandb.login()


@contextmanager
def open_trackers(config: TrainConfig, run: Path) -> Iterator[Callable[[str, list[dict]], None]]:
    """A function that shows new lines, given the name of the file they belong to."""
    updates = config.optimizer.updates_per_epoch

    def read(file: str, lines: list[dict[str, Any]]) -> History:
        return [(scalars(line, SECTIONS[file]), step_of(line, updates)) for line in lines]

    files = SECTIONS if config.trackers else ()
    history = [entry for file in files for entry in read(file, read_metrics(run, file))]
    with ExitStack() as stack:
        logs = [stack.enter_context(TRACKERS[n](config, run, history)) for n in config.trackers]

        def track(file: str, lines: list[dict[str, Any]]) -> None:
            for entry in read(file, lines) if logs else ():
                for log in logs:
                    log(*entry)

        yield track


@contextmanager
def tensorboard(config: TrainConfig, run: Path, history: History) -> Iterator[Log]:
    """In the run's folder `tensorboard`. Events of an earlier session are purged and told again."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard"), purge_step=0, flush_secs=10) as writer:
        writer.add_text("config", f"```\n{to_yaml(config)}```")

        def log(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        for entry in history:
            log(*entry)
        yield log


@contextmanager
def wandb(config: TrainConfig, run: Path, history: History) -> Iterator[Log]:
    """A run of the project "drift" or WANDB_PROJECT; its id lies in the run's wandb.json.

    Nothing can be purged there: a resumed run tells the updates since its last checkpoint twice,
    and the same. What a kill took from W&B's own buffers is not told again, for nobody knows what.
    The step is a value of its own, "update": W&B's counts the calls.
    """
    import wandb

    known = read_json(run / "wandb.json", field="output").get("id")
    with _wandb_errors():
        session = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "drift"),
            name=run.name,
            id=known,
            resume="allow",
            dir=str(run),
            config=yaml.safe_load(to_yaml(config)),
        )
    write_text(run / "wandb.json", json.dumps({"id": session.id}), field="output")
    for section in SECTIONS.values():
        session.define_metric(f"{section}/*", step_metric="update")

    def log(values: dict[str, float], step: int) -> None:
        session.log(values | {"update": step})

    failed = True
    try:
        for entry in () if known else history:
            log(*entry)
        yield log
        failed = False
    finally:
        session.finish(exit_code=int(failed))


@contextmanager
def _wandb_errors() -> Iterator[None]:
    from wandb.errors import Error

    try:
        yield
    except Error as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"trackers: wandb: {reason} (WANDB_MODE=offline needs neither account nor network)"
        ) from error


TRACKERS: dict[str, Callable[[TrainConfig, Path, History], AbstractContextManager[Log]]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
}

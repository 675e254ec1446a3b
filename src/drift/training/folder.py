"""The folder of a run: whether it may be begun or gone on with, and what lies there first."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.config import TrainConfig, load_run_config, to_yaml
from drift.errors import UserError
from drift.files.locks import alone
from drift.files.records import read_object, settings_difference
from drift.files.writing import write_text
from drift.training.needs import ADAPTER, MODEL, PROMPTS, record, refuse_others
from drift.training.tracking import environment

# What a resumed run may have otherwise: length, folder, worker, looks, guards and trackers.
ELSEWHERE = {
    "epochs": 0,
    "output": "",
    "reward_worker": {},
    "live": {},
    "guards": {},
    "trackers": (),
}
BUSY = "wait until that training has ended, or stop it; or give another output=DIR"


@contextmanager
def alone_in(config: TrainConfig) -> Iterator[None]:
    """The run's folder, for this process alone."""
    with alone(Path(config.output), field="output", advice=BUSY):
        yield


def check_folder(config: TrainConfig, resume: bool) -> None:
    """Refuse, before anything is loaded, a folder that holds a run, or another than is resumed."""
    run = Path(config.output)
    if not resume:
        if (run / "config.yaml").exists():
            raise UserError(
                f"output: {run} already holds a run; use --resume, or another output=DIR"
            )
        return
    before, recorded = load_run_config(run), _environment(run).get("weights", {})
    old, new = (_decisive(c, recorded) for c in (before, config))
    different = settings_difference(old, new, told="{} then, {} now")
    if different:
        raise UserError(f"cannot resume {run}: its config.yaml has other {different}")


def _decisive(config: TrainConfig, recorded: dict[str, Any]) -> dict[str, Any]:
    """What may not change; what is recorded by its content may have moved."""
    fields = asdict(config) | ELSEWHERE
    if PROMPTS in recorded:
        fields["prompts"] = ""
    for role, name in ((MODEL, "name"), (ADAPTER, "adapter")):
        if role in recorded and fields["model"][name]:
            fields["model"][name] = role
    return fields


def check_parts(config: TrainConfig) -> None:
    """Refuse to resume with other weights, prompts or code; every part is loaded by now.

    Runs from before these were recorded are taken on trust. Other versions of libraries are said.
    """
    run = Path(config.output)
    written = _environment(run)
    if "weights" in written:
        refuse_others(run, written["weights"], record(config))
    now, then = environment()["packages"], written.get("packages", {})
    for name in now.keys() & then.keys() if isinstance(then, dict) else ():
        if now[name] != then[name]:
            tqdm.write(
                f"{name} was {then[name]} when the run began, and is {now[name]}: "
                "from here on figures may be others"
            )


def begin(config: TrainConfig) -> None:
    """Write what a run begins with; it is one as soon as its config.yaml is there."""
    run = Path(config.output)
    described = json.dumps(environment() | {"weights": record(config)}, indent=1)
    write_text(run / "environment.json", described, field="output")
    write_text(run / "config.yaml", to_yaml(config), field="output")


def update(config: TrainConfig) -> None:
    """Have the fields that a resume changed in config.yaml."""
    run = Path(config.output)
    if load_run_config(run) != config:
        write_text(run / "config.yaml", to_yaml(config), field="output")


def _environment(run: Path) -> dict[str, Any]:
    return read_object(run / "environment.json", field="output")

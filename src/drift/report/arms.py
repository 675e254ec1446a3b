"""Compared runs, and the arms they make: runs that differ in nothing but their training seed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from drift.config import TrainConfig
from drift.errors import UserError
from drift.evaluation.stored import DEFAULT, evaluation_folder, read_features, read_pictures
from drift.functional.intervals import crossed_interval
from drift.report.seeds import over_seeds

# What two runs of one arm may have otherwise: it moves results by rounding at most.
WITHOUT_EFFECT = {"seed": 0, "output": "", "epochs": 0, "device": "", "threads": 0}
WITHOUT_EFFECT |= {"checkpoint_every": 0, "evaluation": {}, "reward_worker": {}}


@dataclass(frozen=True)
class Compared:
    """A run as the comparison sees it; `evaluations` of one name, by step, 0 = the base model."""

    label: str
    run: Path
    config: TrainConfig
    evaluations: dict[int, dict[str, Any]]
    training: list[dict[str, int | float]]
    environment: dict[str, Any]
    name: str = DEFAULT  # of the evaluations

    @property
    def last(self) -> int:
        return max(self.evaluations)

    @property
    def spent(self) -> dict[str, int | float] | None:
        """Images sampled and seconds spent up to the last evaluated checkpoint."""
        reached = [point for point in self.training if point["epoch"] <= self.last]
        return reached[-1] if reached else None

    def figure(self, name: str, step: int | None = None) -> dict[str, Any] | None:
        """A figure of the last evaluated checkpoint, or of `step`."""
        return self.evaluations[self.last if step is None else step]["figures"].get(name)

    def folder(self, step: int) -> Path:
        """Of an evaluation."""
        return evaluation_folder(self.run, step, self.name)

    def pictures(self, step: int) -> UInt8[np.ndarray, "P N H W 3"]:
        return read_pictures(self.folder(step))

    def features(self, step: int, encoder: str) -> Float[Tensor, "P N D"]:
        return read_features(self.folder(step), encoder)


@dataclass(frozen=True)
class Arm:
    """A method as it was run: one run for each training seed, by seed."""

    label: str
    runs: tuple[Compared, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]

    @property
    def steps(self) -> list[int]:
        """Evaluated in every run; the base model's 0 first."""
        return sorted(set.intersection(*(set(run.evaluations) for run in self.runs)))

    @property
    def last(self) -> int:
        return self.steps[-1]

    @property
    def config(self) -> TrainConfig:
        """Of the first seed; the others' differ in nothing that matters."""
        return self.runs[0].config

    @property
    def settings(self) -> dict[str, Any]:
        """How it was judged: prompts, seeds, sampler, rewards and encoders."""
        return self.runs[0].evaluations[0]["settings"]

    @property
    def spent(self) -> dict[str, float] | None:
        """Images sampled and seconds spent, means over the runs."""
        known = [run.spent for run in self.runs if run.spent]
        if len(known) < len(self.runs):
            return None
        return {key: sum(p[key] for p in known) / len(known) for key in ("images", "seconds")}

    def values(self, name: str, step: int | None = None) -> Float[Tensor, "S"] | None:
        """A figure's mean in every run, in float64; None unless every run has one."""
        figures = [run.figure(name, self.last if step is None else step) for run in self.runs]
        means = [figure["mean"] for figure in figures if figure and figure["mean"] is not None]
        return torch.tensor(means).double() if len(means) == len(self.runs) else None

    def per_prompt(self, name: str, step: int | None = None) -> Float[Tensor, "S P"] | None:
        """A figure of every prompt in every run, NaN where a prompt has none; None if not known."""
        figures = [run.figure(name, self.last if step is None else step) for run in self.runs]
        rows = [figure["per_prompt"] for figure in figures if figure and figure["per_prompt"]]
        if len(rows) < len(self.runs):
            return None
        plain = [[torch.nan if value is None else value for value in row] for row in rows]
        return torch.tensor(plain).double()

    def figure(self, name: str, step: int | None = None) -> dict[str, float | None] | None:
        """Mean over seeds, and its 95 % interval over seeds and prompts; of one run, its own.

        What has no value per prompt has an interval over seeds alone. The base model is one model.
        """
        if len(self.runs) == 1 or step == 0:
            return self.runs[0].figure(name, self.last if step is None else step)
        values, table = self.values(name, step), self.per_prompt(name, step)
        if values is None:
            return None
        generator = torch.Generator().manual_seed(0)
        low, high = crossed_interval(table, generator) if table is not None else over_seeds(values)
        return {"mean": values.mean().item(), "low": low, "high": high}


def identity(config: TrainConfig) -> dict[str, Any]:
    """What a run is, its seed and whatever is without effect on results left out."""
    return asdict(config) | WITHOUT_EFFECT


def first_unique(kinds: Sequence[Sequence[str]]) -> list[str]:
    """For each run its label of the first kind that no other run shares; else of the last kind."""
    counts = [Counter(kind) for kind in kinds]
    labels = []
    for options in zip(*kinds, strict=True):
        unique = [o for o, count in zip(options, counts, strict=True) if count[o] == 1]
        labels.append(next(filter(None, unique), options[-1]))
    return labels


def name_runs(folders: Sequence[Path], configs: Sequence[TrainConfig]) -> list[str]:
    """The method's name where it is the only run of it, else the folder's, else the whole path."""
    methods = [config.method_name.upper() for config in configs]
    return first_unique([methods, [f.resolve().name for f in folders], list(map(str, folders))])


def group(runs: Sequence[Compared]) -> list[Arm]:
    """The arms, in the order of their first runs; a seed comes once in each."""
    groups: list[list[Compared]] = []
    for run in runs:
        same = [g for g in groups if identity(g[0].config) == identity(run.config)]
        if same:
            same[0].append(run)
        else:
            groups.append([run])
    for members in groups:
        seed, count = Counter(run.config.seed for run in members).most_common(1)[0]
        if count > 1:
            one, two = [run.run for run in members if run.config.seed == seed][:2]
            raise UserError(f"compare: {one} and {two} are the same run twice: seed {seed}")
    methods = [members[0].config.method_name.upper() for members in groups]
    labels = first_unique([methods, [members[0].label for members in groups]])
    return [
        Arm(label, tuple(sorted(members, key=lambda run: run.config.seed)))
        for label, members in zip(labels, groups, strict=True)
    ]

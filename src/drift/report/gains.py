"""DG and RG of every arm over every baseline (DRIFT, Section 6, Table 1), seed by seed.

Runs of one seed are compared with one another, and the gains of the seeds averaged. A gain is
relative to the baseline's last checkpoint, as in the paper; ours beside it, relative to each of its
checkpoints and then averaged. Where an arm reaches the baseline's coordinate in no checkpoint, its
gain is not known, and stays out of every mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.functional.gains import By, diversity_gain, normalise_rewards, reward_gain
from drift.functional.pareto import frontier, hypervolume
from drift.report.arms import Arm, Compared
from drift.report.seeds import Paired, over_seeds, paired

Kind = Literal["DG", "RG"]
At = Literal["last", "every"]  # checkpoint of the baseline
AVERAGE = "average"  # in place of a baseline
WAYS: dict[tuple[By, At], str] = {  # to read a gain off, in words
    ("exceeding", "last"): "paper's protocol",
    ("interpolation", "last"): "by interpolation",
    ("interpolation", "every"): "by interpolation, every checkpoint",
}


@dataclass(frozen=True)
class Scale:
    """The affine map of raw rewards to [0, 1] that all the compared runs share (ours)."""

    reward: str
    low: float
    high: float

    def __call__(self, raw: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        return normalise_rewards(raw, self.low, self.high)


@dataclass(frozen=True)
class Gain:
    """Of one arm over one baseline, or over the average of them; relative, so 0.1 is 10 %."""

    ours: str
    baseline: str
    kind: Kind
    measure: str  # a figure: what is gained in
    by: By
    at: At
    mean: float | None  # over the seeds that reach; None: not reached
    low: float | None  # 95 % interval over seeds, where all of several reach
    high: float | None
    reached: int  # seeds; of an average, those of all baselines
    seeds: int
    checkpoints: int  # of the baseline that are reached, over all seeds
    asked: int


def scale_of(arms: Sequence[Arm], reward: str) -> Scale:
    """Least and greatest mean reward of any checkpoint of any run, base model included.

    A reward that moved nowhere is 0 everywhere.
    """
    name = f"reward/{reward}"
    found = [run.figure(name, step) for arm in arms for run in arm.runs for step in arm.steps]
    means = [figure["mean"] for figure in found if figure]
    low, high = min(means), max(means)
    return Scale(reward, low, high if low < high else low + 1)


def points(run: Compared, scale: Scale, measure: str, steps: Sequence[int]) -> Tensor:
    """(normalised reward, diversity) "N 2" of those `steps` that have both."""
    figures = [(run.figure(f"reward/{scale.reward}", s), run.figure(measure, s)) for s in steps]
    pairs = [(x["mean"], y["mean"]) for x, y in figures if x and y and y["mean"] is not None]
    raw = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    return torch.stack([scale(raw[:, 0]), raw[:, 1]], 1)


def seed_pairs(ours: Arm, theirs: Arm) -> list[tuple[Compared, Compared]]:
    """Runs of both arms with the same training seed."""
    by_seed = {run.config.seed: run for run in theirs.runs}
    pairs = [(r, by_seed[r.config.seed]) for r in ours.runs if r.config.seed in by_seed]
    if not pairs:
        raise UserError(
            f"compare: {ours.label} (seed {', '.join(map(str, ours.seeds))}) and {theirs.label} "
            f"(seed {', '.join(map(str, theirs.seeds))}) have no training seed in common"
        )
    return pairs


def gain(ours: Arm, theirs: Arm, scale: Scale, kind: Kind, measure: str, by: By, at: At) -> Gain:
    """DG: in `measure` at equal reward. RG: in reward at equal `measure`."""
    pairs = seed_pairs(ours, theirs)
    # Our curve starts at the base model, so one may interpolate from there; a checkpoint it is not.
    steps = ours.steps if by == "interpolation" else ours.steps[1:]
    asked = theirs.steps[1:] if at == "every" else theirs.steps[-1:]
    gained = diversity_gain if kind == "DG" else reward_gain
    found = [
        gained(points(run, scale, measure, steps), points(other, scale, measure, asked), by)
        for run, other in pairs
    ]
    known = [values[~values.isnan()] for values in found]
    each = torch.tensor([v.mean().item() for v in known if len(v)], dtype=torch.float64)
    low, high = over_seeds(each) if len(each) == len(pairs) else (None, None)
    return Gain(
        ours=ours.label,
        baseline=theirs.label,
        kind=kind,
        measure=measure,
        by=by,
        at=at,
        mean=each.mean().item() if len(each) else None,
        low=low,
        high=high,
        reached=len(each),
        seeds=len(pairs),
        checkpoints=sum(map(len, known)),
        asked=sum(map(len, found)),
    )


def averaged(gains: Sequence[Gain]) -> Gain:
    """Over the baselines that were reached: Table 1's DG and RG."""
    known = [g.mean for g in gains if g.mean is not None]
    return replace(
        gains[0],
        baseline=AVERAGE,
        mean=sum(known) / len(known) if known else None,
        low=None,
        high=None,
        reached=sum(g.reached for g in gains),
        seeds=sum(g.seeds for g in gains),
        checkpoints=sum(g.checkpoints for g in gains),
        asked=sum(g.asked for g in gains),
    )


def all_gains(
    arms: Sequence[Arm], baselines: Sequence[Arm], scale: Scale, measures: Sequence[str], equal: str
) -> list[Gain]:
    """DG in every measure and RG at equal `equal`, in every way, averages last of each."""
    wanted: list[tuple[Kind, str]] = [("DG", measure) for measure in measures]
    wanted.append(("RG", equal))
    found = []
    for ours in arms:
        for kind, measure in wanted:
            for by, at in WAYS:
                each = [gain(ours, b, scale, kind, measure, by, at) for b in baselines]
                found += [*each, averaged(each)] if len(each) > 1 else each
    return found


def hypervolumes(arm: Arm, scale: Scale, measure: str) -> Float[Tensor, "S"]:
    """Of each run: area under its frontier, diversity in units of the base model's (ours)."""
    areas = []
    for run in arm.runs:
        curve = points(run, scale, measure, arm.steps)
        areas.append(hypervolume(curve[:, 0], curve[:, 1] / curve[0, 1]))
    return torch.tensor(areas).double()


def pareto_set(arms: Sequence[Arm], scale: Scale, measure: str) -> list[tuple[str, int]]:
    """(arm, step) of the seed means that no other checkpoint of any arm dominates."""
    names, coordinates = [], []
    for arm in arms:
        for step in arm.steps:
            x, y = arm.values(f"reward/{scale.reward}", step), arm.values(measure, step)
            if x is not None and y is not None:
                names.append((arm.label, step))
                coordinates.append((x.mean().item(), y.mean().item()))
    table = torch.tensor(coordinates, dtype=torch.float64).reshape(-1, 2)
    on_it = frontier(table[:, 0], table[:, 1])
    return list(dict.fromkeys(name for name, on in zip(names, on_it, strict=True) if on))


@dataclass(frozen=True)
class Difference:
    """Whether two arms' last checkpoints differ in a figure, over training seeds."""

    ours: str
    baseline: str
    measure: str
    result: Paired


def differences(
    arms: Sequence[Arm], baselines: Sequence[Arm], measures: Sequence[str]
) -> list[Difference]:
    """Every arm against every baseline in every measure that both have."""
    found = []
    for ours in arms:
        for theirs in baselines:
            pairs = seed_pairs(ours, theirs)
            for measure in measures:
                mine = _means([run for run, _ in pairs], measure, ours.last)
                other = _means([run for _, run in pairs], measure, theirs.last)
                if mine.isfinite().all() and other.isfinite().all():
                    found.append(Difference(ours.label, theirs.label, measure, paired(mine, other)))
    return found


def _means(runs: Sequence[Compared], measure: str, step: int) -> Float[Tensor, "S"]:
    """A figure's mean in each run; NaN where there is none."""
    means = [(run.figure(measure, step) or {}).get("mean") for run in runs]
    return torch.tensor([torch.nan if m is None else m for m in means], dtype=torch.float64)

"""What the numbers say, in sentences that come out right whoever wins.

Models drew the same prompts from the same seeds, so two models are compared prompt by prompt: a
difference counts if the 95 % bootstrap interval of its mean over prompts leaves out 0. It says
nothing about other training seeds, and the sentences say so.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from drift.config import TrainConfig
from drift.functional.intervals import bootstrap_interval
from drift.functional.pareto import frontier

FEWEST_PROMPTS = 5  # with fewer, no difference is claimed


@dataclass(frozen=True)
class Compared:
    """A run as the comparison sees it; `evaluations` by step, 0 = the base model."""

    label: str
    run: Path
    config: TrainConfig
    evaluations: dict[int, dict[str, Any]]
    training: list[dict[str, int | float]]
    environment: dict[str, Any]

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


def number(value: int | float | None) -> str:
    """Three or so digits, with a true minus sign; a dash for nothing."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:,.{digits}f}".replace("-", "−")


def difference(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> int:
    """+1 or -1 if ours is clearly above or below theirs, prompt by prompt; else 0."""
    if not ours or not theirs or not ours["per_prompt"] or not theirs["per_prompt"]:
        return 0
    pairs = zip(ours["per_prompt"], theirs["per_prompt"], strict=True)
    gaps = torch.tensor([a - b for a, b in pairs if a is not None and b is not None])
    if len(gaps) < FEWEST_PROMPTS:
        return 0
    low, high = bootstrap_interval(gaps.double(), torch.Generator().manual_seed(0))
    return (low > 0) - (high < 0)


def rewarded_encoders(runs: Sequence[Compared]) -> set[str]:
    """Encoders whose diversity some method was rewarded for."""
    return {run.config.encoder for run in runs if run.config.method.shaping.weight > 0}


def judging_encoder(runs: Sequence[Compared]) -> str:
    """The encoder that decides: the first one that nobody was rewarded by, if there is one."""
    encoders = runs[0].evaluations[0]["settings"]["encoders"]
    return next((e for e in encoders if e not in rewarded_encoders(runs)), encoders[0])


def judging_reward(runs: Sequence[Compared]) -> str:
    """The reward of the first run's training, or if that was not evaluated, the first that was."""
    rewards = runs[0].evaluations[0]["settings"]["rewards"]
    return runs[0].config.reward if runs[0].config.reward in rewards else rewards[0]


def _kept(run: Compared, name: str) -> str:
    base, now = run.figure(name, 0), run.figure(name)
    if not base or not now or not base["mean"] or now["mean"] is None:
        return "–"
    return f"{100 * now['mean'] / base['mean']:.0f} %"


def course(run: Compared, reward: str, encoder: str) -> str:
    """What one run did to reward and diversity, measured from the base model."""
    before, after = run.figure(f"reward/{reward}", 0), run.figure(f"reward/{reward}")
    moved = {1: "raised", -1: "lowered", 0: "did not clearly move"}[difference(after, before)]
    span = f"({number(before['mean'])} → {number(after['mean'])})" if before and after else ""
    kept = _kept(run, f"diversity/{encoder}")
    return f"{run.label} {moved} the reward {span} and kept {kept} of the base model's diversity"


def headline(one: Compared, two: Compared, reward: str, encoder: str) -> str:
    """Which of two runs is ahead on reward and diversity, in one sentence."""
    more = [
        difference(two.figure(name), one.figure(name))
        for name in (f"reward/{reward}", f"diversity/{encoder}")
    ]
    first, second = two.label, one.label
    if sum(more) < 0 or (sum(more) == 0 and more[1] < 0):
        more, first, second = [-m for m in more], second, first
    sentences = {
        (1, 1): "{0} is ahead on both: a higher reward and more diverse pictures than {1}.",
        (
            0,
            1,
        ): "{0} draws more diverse pictures than {1}, at a reward that is not clearly different.",
        (
            1,
            0,
        ): "{0} reaches a higher reward than {1}, at a diversity that is not clearly different.",
        (-1, 1): "A trade-off: {0} draws more diverse pictures than {1}, but at a lower reward.",
        (0, 0): "No clear difference between {1} and {0}, in reward or in diversity.",
    }
    return sentences[more[0], more[1]].format(first, second)


def _summary(runs: Sequence[Compared], reward: str, encoder: str) -> str:
    """The headline for any number of runs."""
    if len(runs) == 1:
        return course(runs[0], reward, encoder) + "."
    if len(runs) == 2:
        return headline(runs[0], runs[1], reward, encoder)
    named = (f"reward/{reward}", f"diversity/{encoder}")
    means = [[(run.figure(name) or {}).get("mean") or 0.0 for run in runs] for name in named]
    on_it = frontier(torch.tensor(means[0]), torch.tensor(means[1]))
    best = [run.label for run, on in zip(runs, on_it, strict=True) if on]
    if len(best) == 1:
        return f"{best[0]} has both the highest reward and the highest diversity."
    listed = f"{', '.join(best[:-1])} or {best[-1]}"
    return f"On reward and diversity together, no run is better than {listed}."


def objections(runs: Sequence[Compared], encoder: str) -> list[str]:
    """Other measures of diversity that disagree with the judging encoder about a pair of runs."""
    others = {"coverage": "ground-truth coverage among right animals"}
    for name in runs[0].evaluations[0]["settings"]["encoders"]:
        hint = ", which was rewarded" if name in rewarded_encoders(runs) else ""
        others[f"diversity/{name}"] = f"{name}{hint}"
    found = []
    for one, two in combinations(runs, 2):
        main = difference(two.figure(f"diversity/{encoder}"), one.figure(f"diversity/{encoder}"))
        for name, words in others.items():
            other = difference(two.figure(name), one.figure(name))
            if two.figure(name) is None or other == main:
                continue
            ahead = {1: f"{two.label} is the more diverse", -1: f"{one.label} is the more diverse"}
            state = ahead.get(other, f"{one.label} and {two.label} are not clearly different")
            found.append(f"The measures do not all agree: by {words}, {state}.")
    return found


def cautions(runs: Sequence[Compared]) -> list[str]:
    """What keeps these numbers from meaning more than they do."""
    found = []
    budgets = {run.label: run.spent["images"] for run in runs if run.spent}
    if len(set(budgets.values())) > 1:
        spent = ", ".join(f"{label} {images:,.0f}" for label, images in budgets.items())
        found.append(f"The runs did not sample equally many images: {spent}.")
    trained = sorted({run.config.reward for run in runs})
    if len(trained) > 1:
        found.append(f"The runs were trained on different rewards: {', '.join(trained)}.")
    measured = sorted({run.config.encoder for run in runs} - {""})
    if len(measured) > 1:
        found.append(
            f"The runs measured diversity in training by {' and '.join(measured)}: those curves "
            "have different units."
        )
    if max(Counter(run.config.method_name for run in runs).values()) == 1:
        found.append(
            "Each method was trained once: another training seed may change the order. "
            "The intervals here are over prompts only."
        )
    return found


def truth(runs: Sequence[Compared]) -> list[str]:
    """The embedded world's own count of modes, in words."""
    base = runs[0].figure("coverage", 0)
    if base is None:
        return []
    counted = [
        f"{number((run.figure('coverage') or base)['mean'])} for {run.label}" for run in runs
    ]
    listed = ", ".join([*counted, f"{number(base['mean'])} for the base model"])
    return [f"Effective modes (style, scene, facing) counted among right animals: {listed}."]


def verdict(runs: Sequence[Compared]) -> tuple[str, list[str]]:
    """The headline, and the sentences that belong to it."""
    reward, encoder = judging_reward(runs), judging_encoder(runs)
    paid = "which was itself rewarded" if encoder in rewarded_encoders(runs) else ""
    courses = "; ".join(course(run, reward, encoder) for run in runs)
    seen = f"Diversity here is what {encoder} sees, {paid or 'an encoder that rewarded no run'}."
    sentences = [seen] if len(runs) == 1 else [f"{courses}. {seen}"]
    sentences += [*truth(runs), *objections(runs, encoder), *cautions(runs)]
    return _summary(runs, reward, encoder), sentences

"""What the numbers say, in sentences that come out right whoever wins.

Models drew the same prompts from the same seeds, so two models are compared prompt by prompt, and
arms of several training seeds also seed by seed: a difference counts if the 95 % bootstrap interval
of its mean over seeds and prompts leaves out 0. With one seed it says nothing about others, with
two or three too little, and the sentences say so.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from drift.functional.intervals import crossed_interval
from drift.functional.pareto import frontier
from drift.report.arms import Arm

FEWEST_PROMPTS = 5  # with fewer, no difference is claimed
FEWEST_SEEDS = 5  # with fewer, it is called a lead


def number(value: int | float | None) -> str:
    """Three or four digits, with a true minus sign; a dash for nothing."""
    if value is None:
        return "–"
    size = abs(round(value, 3))  # 1 less a rounding error is shown as 1
    digits = 0 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:z,.{digits}f}".replace("-", "−")


def gaps(ours: Arm, theirs: Arm, name: str, step: int | None = None) -> Tensor | None:
    """Ours at the end less theirs (at `step`, or at the end too), "S P"; None if not known.

    Of arms with the same training seed; where no seed is common, of the means over seeds.
    """
    mine, other = ours.per_prompt(name), theirs.per_prompt(name, step)
    if mine is None or other is None:
        return None
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    if not common:
        return mine.nanmean(0, keepdim=True) - other.nanmean(0, keepdim=True)
    rows = [[arm.seeds.index(seed) for seed in common] for arm in (ours, theirs)]
    return mine[rows[0]] - other[rows[1]]


def direction(gaps: Float[Tensor, "S P"] | None) -> int:
    """+1 or -1 if the mean gap is clearly above or below 0; else 0."""
    if gaps is None or gaps.isfinite().any(0).sum() < FEWEST_PROMPTS:
        return 0
    low, high = crossed_interval(gaps, torch.Generator().manual_seed(0))
    return (low > 0) - (high < 0)


def rewarded_encoders(arms: Sequence[Arm]) -> set[str]:
    """Encoders whose diversity some method was rewarded for."""
    return {arm.config.encoder for arm in arms if arm.config.method.shaping.weight > 0}


def judging_encoder(arms: Sequence[Arm]) -> str:
    """The encoder that decides: the first one that nobody was rewarded by, if there is one."""
    encoders = arms[0].settings["encoders"]
    return next((e for e in encoders if e not in rewarded_encoders(arms)), encoders[0])


def judging_reward(arms: Sequence[Arm]) -> str:
    """The reward of the first run's training, or if that was not evaluated, the first that was."""
    rewards = arms[0].settings["rewards"]
    return arms[0].config.reward if arms[0].config.reward in rewards else rewards[0]


def _kept(arm: Arm, name: str) -> str:
    base, now = arm.figure(name, 0), arm.figure(name)
    if not base or not now or not base["mean"] or now["mean"] is None:
        return "–"
    return f"{100 * now['mean'] / base['mean']:.0f} %"


def course(arm: Arm, reward: str, encoder: str) -> str:
    """What one arm did to reward and diversity, measured from the base model."""
    name = f"reward/{reward}"
    before, after = arm.figure(name, 0), arm.figure(name)
    moved = {1: "raised", -1: "lowered", 0: "did not clearly move"}
    verb = moved[direction(gaps(arm, arm, name, 0))]
    span = f"({number(before['mean'])} → {number(after['mean'])})" if before and after else ""
    kept = _kept(arm, f"diversity/{encoder}")
    return f"{arm.label} {verb} the reward {span} and kept {kept} of the base model's diversity"


def headline(one: Arm, two: Arm, reward: str, encoder: str) -> str:
    """Which of two arms is ahead on reward and diversity, in one sentence."""
    apart = [gaps(two, one, name) for name in (f"reward/{reward}", f"diversity/{encoder}")]
    more, sides = [direction(g) for g in apart], [_side(g) for g in apart]
    first, second = two.label, one.label
    if sum(more) < 0 or (sum(more) == 0 and more[1] < 0):
        more, sides, first, second = [-m for m in more], [-s for s in sides], second, first
    reward_side, diversity_side = (("different", "higher", "lower")[side] for side in sides)
    return {
        (1, 1): f"{first} is ahead on both: a higher reward and more diverse pictures "
        f"than {second}.",
        (0, 1): f"{first} draws more diverse pictures than {second}, at a reward that is not "
        f"clearly {reward_side}.",
        (1, 0): f"{first} reaches a higher reward than {second}, at a diversity that is not "
        f"clearly {diversity_side}.",
        (-1, 1): f"A trade-off: {first} draws more diverse pictures than {second}, but at a "
        "lower reward.",
        (0, 0): f"No clear difference between {second} and {first}, in reward or in diversity.",
    }[more[0], more[1]]


def _side(gaps: Float[Tensor, "S P"] | None) -> int:
    """To which side a difference leans, clear or not."""
    mean = 0.0 if gaps is None else gaps.nanmean().item()
    return (mean > 0) - (mean < 0)


def _summary(arms: Sequence[Arm], reward: str, encoder: str) -> str:
    """The headline for any number of arms."""
    if len(arms) == 1:
        return course(arms[0], reward, encoder) + "."
    if len(arms) == 2:
        return headline(arms[0], arms[1], reward, encoder)
    named = (f"reward/{reward}", f"diversity/{encoder}")
    means = [[(arm.figure(name) or {}).get("mean") or 0.0 for arm in arms] for name in named]
    on_it = frontier(torch.tensor(means[0]), torch.tensor(means[1]))
    best = [arm.label for arm, on in zip(arms, on_it, strict=True) if on]
    if len(best) == 1:
        return f"{best[0]} has both the highest reward and the highest diversity."
    listed = f"{', '.join(best[:-1])} or {best[-1]}"
    return f"On reward and diversity together, none is better than {listed}."


def objections(arms: Sequence[Arm], encoder: str) -> list[str]:
    """Other measures of diversity that disagree with the judging encoder about pairs of arms."""
    others = {"coverage": "ground-truth coverage among right animals"}
    for name in arms[0].settings["encoders"]:
        hint = ", which was rewarded" if name in rewarded_encoders(arms) else ""
        others[f"diversity/{name}"] = f"{name}{hint}"
    found = []
    for name, words in others.items():
        pairs = []
        for one, two in combinations(arms, 2):
            ahead = direction(gaps(two, one, name))
            same = ahead == direction(gaps(two, one, f"diversity/{encoder}"))
            if two.figure(name) is not None and not same:
                pairs.append(_ahead(one, two, ahead))
        if pairs:
            found.append(f"The measures do not all agree: by {words}, {'; '.join(pairs)}.")
    return found


def _ahead(one: Arm, two: Arm, which: int) -> str:
    if which == 0:
        return f"{one.label} and {two.label} are not clearly different"
    more, less = (two, one) if which > 0 else (one, two)
    return f"{more.label} is the more diverse, against {less.label}"


def cautions(arms: Sequence[Arm]) -> list[str]:
    """What keeps these numbers from meaning more than they do."""
    found = []
    budgets = {arm.label: arm.spent["images"] for arm in arms if arm.spent}
    if len(set(budgets.values())) > 1:
        spent = ", ".join(f"{label} {images:,.0f}" for label, images in budgets.items())
        found.append(f"The runs did not sample equally many images: {spent}.")
    measured = sorted({arm.config.encoder for arm in arms} - {""})
    if len(measured) > 1:
        found.append(
            f"The runs measured diversity in training by {' and '.join(measured)}: those curves "
            "have different units."
        )
    seeds = [len(arm.runs) for arm in arms]
    if max(seeds) == 1:
        found.append(
            "Each method was trained once: another training seed may change the order. "
            "The intervals here are over prompts only."
        )
    elif min(seeds) < FEWEST_SEEDS:
        found.append(
            f"Each method was trained with {min(seeds)} seeds"
            f"{'' if min(seeds) == max(seeds) else f' to {max(seeds)}'}: intervals over so few "
            "are too narrow, and a difference is a lead, not a result."
        )
    return found


def truth(arms: Sequence[Arm]) -> list[str]:
    """The embedded world's own count of modes, in words."""
    base = arms[0].figure("coverage", 0)
    if base is None:
        return []
    counted = [
        f"{number((arm.figure('coverage') or base)['mean'])} for {arm.label}" for arm in arms
    ]
    listed = ", ".join([*counted, f"{number(base['mean'])} for the base model"])
    return [f"Effective modes (style, scene, facing) counted among right animals: {listed}."]


def verdict(arms: Sequence[Arm]) -> tuple[str, list[str]]:
    """The headline, and the sentences that belong to it."""
    reward, encoder = judging_reward(arms), judging_encoder(arms)
    paid = "which was itself rewarded" if encoder in rewarded_encoders(arms) else ""
    courses = "; ".join(course(arm, reward, encoder) for arm in arms)
    seen = f"Diversity here is what {encoder} sees, {paid or 'an encoder that rewarded no run'}."
    sentences = [seen] if len(arms) == 1 else [f"{courses}. {seen}"]
    sentences += [*truth(arms), *objections(arms, encoder), *cautions(arms)]
    return _summary(arms, reward, encoder), sentences

"""What the page's script draws from: figures by step, and the curves of training, as plain data.

Everything here ends as JSON in the page, so a number that is not finite is None.
"""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from markupsafe import Markup

from drift.report.arms import Arm, Compared
from drift.report.verdict import judging_encoder, judging_reward, rewarded_encoders
from drift.report.wording import GAINED, in_words, wording

MOST_POINTS = 300  # of a training curve; neighbouring epochs of longer ones are averaged
SMOOTH = 12  # parts of a curve that its rolling mean averages over
DIGITS = 4  # significant ones
Number = int | float | None

LIMITS = {"possible", "measurable"}  # what a world allows, not what a model did

# Columns of metrics.jsonl worth a curve.
CURVES = {
    "reward": "reward",
    "diversity": "diversity",
    "reward_std": "spread of rewards within a prompt (std)",
    "kept_mean_shift": "mean reward, kept minus pool (std)",
    "intrinsic_clipped": "diversity rewards cut at their limit",
    "approx_kl": "KL to the policy that sampled",
    "reference_kl": "KL to the base model",
    "clip_fraction": "ratios outside the clip range",
    "grad_norm": "gradient norm",
}
SHARES = {"intrinsic_clipped", "clip_fraction"}  # of these, in percent


def as_json(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def plain(value: Number) -> Number:
    """A number of few digits; None for None and for whatever is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def measure(name: str, words: str) -> dict[str, Any]:
    share = wording(name).share or name in SHARES
    return {"key": name, "words": words, "percent": share}


def axes(arms: Sequence[Arm]) -> dict[str, list[dict[str, Any]]]:
    """The figures to choose from on the frontier's two axes, the page's own choice first."""
    runs = [run for arm in arms for run in arm.runs]
    judged = [metrics["figures"] for run in runs for metrics in run.evaluations.values()]
    names = list(dict.fromkeys(name for figures in judged for name in figures))
    first = [f"reward/{judging_reward(arms)}", "coverage", f"diversity/{judging_encoder(arms)}"]
    names.sort(key=lambda name: first.index(name) if name in first else len(first))
    found: dict[str, list] = {"gained": [], "kept": []}
    for name in names:
        head, _, of = name.partition("/")
        if head not in LIMITS:
            paid = " (rewarded)" if head not in GAINED and of in rewarded_encoders(arms) else ""
            described = measure(name, in_words(name) + paid)
            found["gained" if head in GAINED else "kept"].append(described)
    return found


def beside_pictures(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The figures of a single prompt that stand under its pictures."""
    judged = f"reward/{judging_reward(arms)}", f"diversity/{judging_encoder(arms)}"
    known = arms[0].runs[0].evaluations[0]["figures"]
    listed = [name for name in (*judged, "coverage", "right_animal") if name in known]
    return [measure(name, wording(name).text) for name in listed]


def figures_of(run: Compared, names: Sequence[str]) -> dict[str, list[list | None]]:
    """[mean, low, high] of every evaluated step, by figure."""
    found = {name: [run.figure(name, step) for step in run.evaluations] for name in names}
    keys = ("mean", "low", "high")
    return {
        name: [[plain(figure[key]) for key in keys] if figure else None for figure in steps]
        for name, steps in found.items()
    }


def over_seeds(arm: Arm, names: Sequence[str]) -> dict[str, Any]:
    """[mean, lowest, highest] over an arm's runs at every step they share, by figure."""
    values = {name: [arm.values(name, step) for step in arm.steps] for name in names}
    three = (torch.mean, torch.min, torch.max)
    figures = {
        name: [None if v is None else [plain(f(v).item()) for f in three] for v in steps]
        for name, steps in values.items()
    }
    return {"steps": arm.steps, "figures": figures}


def run_data(run: Compared, names: Sequence[str], beside: Sequence[str]) -> dict[str, Any]:
    """What the pictures and the frontier show of one run."""
    spent = {point["epoch"]: point["images"] for point in run.training}
    by_prompt = {name: [run.figure(name, step) for step in run.evaluations] for name in beside}
    return {
        "seed": run.config.seed,
        "steps": list(run.evaluations),
        "images": [spent.get(step) if step else 0 for step in run.evaluations],
        "figures": figures_of(run, names),
        "prompts": {
            name: [figure and [*map(plain, figure["per_prompt"])] for figure in steps]
            for name, steps in by_prompt.items()
        },
    }


def thinned(values: Sequence[Number], stride: int) -> list[float | None]:
    """The mean of every `stride` epochs, of those that have a finite value."""
    parts = [values[k : k + stride] for k in range(0, len(values), stride)]
    known = [[v for v in part if v is not None and math.isfinite(v)] for part in parts]
    return [fmean(part) if part else None for part in known]


def rolling_mean(values: Sequence[Number], window: int) -> list[float | None]:
    """Each value's mean with its neighbours, `window` in all, fewer at the ends."""
    half = window // 2
    near = [values[max(0, k - half) : k + half + 1] for k in range(len(values))]
    return [mean for part in near for mean in thinned(part, len(part))]


def curves_of(arm: Arm, keys: Sequence[str], stride: int) -> dict[str, Any]:
    """The course of training by quantity: smoothed, the mean over seeds, and pale behind it.

    Pale is every epoch of the only run; of several runs, each one's own rolling mean.
    """
    shortest = min((run.training for run in arm.runs), key=len)
    last = [shortest[k : k + stride][-1] for k in range(0, len(shortest), stride)]
    smooth, pale = {}, {}
    for key in keys:
        each = [thinned([p.get(key) for p in run.training], stride) for run in arm.runs]
        window = max(1, len(each[0]) // SMOOTH)
        means = [thinned(at, len(at))[0] for at in zip(*each, strict=False)]
        smooth[key] = [*map(plain, rolling_mean(means, window))]
        behind = each if len(each) == 1 else [rolling_mean(values, window) for values in each]
        pale[key] = [[*map(plain, values[: len(last)])] for values in behind]
    return {
        "epochs": [point["epoch"] for point in last],
        "images": [point["images"] for point in last],
        "smooth": smooth,
        "pale": pale,
    }


def payload(arms: Sequence[Arm]) -> dict[str, Any]:
    """Everything but the pictures; runs in the order of the arms."""
    runs = [run for arm in arms for run in arm.runs]
    menus, beside = axes(arms), beside_pictures(arms)
    names = [entry["key"] for menu in menus.values() for entry in menu]
    stride = max(1, math.ceil(max(len(run.training) for run in runs) / MOST_POINTS))
    points = [point for run in runs for point in run.training]
    moved = [key for key in CURVES if any(point.get(key) for point in points)]
    of = {
        "reward": {run.config.reward: None for run in runs},
        "diversity": {run.config.encoder: None for run in runs if run.config.encoder},
    }
    told = [
        {
            "label": arm.label,
            "runs": [run_data(run, names, [entry["key"] for entry in beside]) for run in arm.runs],
            "mean": over_seeds(arm, names) if len(arm.runs) > 1 else None,
            "curves": curves_of(arm, moved, stride),
        }
        for arm in arms
    ]
    words = {key: " and ".join(of.get(key, ())) for key in moved}
    return {
        "prompts": arms[0].settings["prompts"],
        "steps": sorted({step for run in runs for step in run.evaluations}),
        "arms": told,
        **menus,
        "beside": beside,
        "curves": [
            measure(key, f"{CURVES[key]}, {words[key]}" if words[key] else CURVES[key])
            for key in moved
        ],
    }

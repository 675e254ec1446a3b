"""The figures of one model's pictures, each with its interval.

Intervals are over prompts (95 %, bootstrap): they say how a figure would move with other prompts,
not with another training seed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from drift.errors import UserError
from drift.functional.coverage import covered
from drift.functional.diversity import mean_pairwise_distance, vendi_score
from drift.functional.intervals import bootstrap_interval
from drift.menagerie.judge import judge, taste_name
from drift.menagerie.probe import Probe
from drift.training.scoring import embed, score
from drift.types import ImageEncoder, Reward

NEIGHBOURS = 10  # k of recall and precision (DRIFT, App. D)
Pixels = UInt8[np.ndarray, "P N H W 3"]


@dataclass(frozen=True)
class Judges:
    """Whatever looks at the pictures."""

    rewards: dict[str, Reward]
    encoders: dict[str, ImageEncoder]
    probe: Probe | None  # the Menagerie's


def summarise(values: Float[Tensor, "P"]) -> dict[str, Any]:
    """Mean, standard error and 95 % interval over prompts, leaving out those without a value."""
    known = values[values.isfinite()].double()
    P = len(known)
    spread = bootstrap_interval(known, torch.Generator().manual_seed(0)) if P > 1 else (None, None)
    return {
        "mean": known.mean().item() if P else None,
        "stderr": (known.std() / math.sqrt(P)).item() if P > 1 else None,
        "low": spread[0],
        "high": spread[1],
        "per_prompt": [v if math.isfinite(v) else None for v in values.tolist()],
    }


def whole(value: float) -> dict[str, Any]:
    """A figure of the whole set, which has neither a value per prompt nor an interval."""
    return {"mean": value, "stderr": None, "low": None, "high": None, "per_prompt": None}


def _images(pixels: Pixels) -> Float[Tensor, "P N 3 H W"]:
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 255


@contextmanager
def _named(field: str, name: str) -> Iterator[None]:
    """Which judge an error comes from: an evaluation has several."""
    try:
        yield
    except UserError as error:
        raise UserError(f"evaluation.{field}: {name}: {error}") from error


def measure(
    pixels: Pixels, prompts: list[str], judges: Judges, judged: Callable[[int], object]
) -> tuple[dict[str, Any], dict[str, Float[Tensor, "P N D"]]]:
    """Figures that need this model's pictures alone, and every encoder's features.

    `judged` is called with the number of each prompt that is done. A judge that answers anything
    but finite numbers is an error that names it and the prompt.
    """
    rewards: dict[str, list] = {name: [] for name in judges.rewards}
    features: dict[str, list] = {name: [] for name in judges.encoders}
    truths: list[dict[str, Tensor]] = []
    for p, prompt in enumerate(prompts):
        images = _images(pixels[p : p + 1])
        for name, reward in judges.rewards.items():
            with _named("rewards", name):
                rewards[name].append(score(reward, images, [prompt]))
        for name, encoder in judges.encoders.items():
            with _named("encoders", name):
                features[name].append(directions(embed(encoder, images, [prompt]), prompt))
        if judges.probe is not None:
            truths.append(judge(images, [prompt], judges.probe))
        judged(p)
    figures: dict[str, Any] = {}
    for name, parts in rewards.items():
        values = torch.cat(parts).double()
        figures[f"reward/{name}"] = summarise(values.mean(1)) | {
            "stderr_images": (values.std() / math.sqrt(values.numel())).item()
        }
    joined = {name: torch.cat(parts).cpu() for name, parts in features.items()}
    for name, E in joined.items():
        figures[f"diversity/{name}"] = summarise(mean_pairwise_distance(E))
        figures[f"vendi/{name}"] = summarise(torch.tensor([vendi_score(row) for row in E]))
        figures[f"vendi_all/{name}"] = whole(vendi_score(E.flatten(0, 1)))
    for name in truths[0] if truths else ():
        taste = name.partition("/")[2]
        if not taste or taste in map(taste_name, judges.rewards):
            figures[name] = summarise(torch.cat([truth[name] for truth in truths]))
    return figures, joined


def directions(features: Float[Tensor, "1 N D"], prompt: str) -> Float[Tensor, "1 N D"]:
    """The features, if none is all zeros, which has no direction and so no distance."""
    if not features.any(-1).all():
        raise UserError(f"the encoder's features of an image for '{prompt}' are all zero")
    return features


def measure_against(
    features: dict[str, Float[Tensor, "P N D"]], base: dict[str, Float[Tensor, "P N D"]]
) -> dict[str, Any]:
    """Recall of the base model's pictures and precision, per prompt and over all neighbours."""
    figures = {}
    for name, E in features.items():
        if E.shape[0] * E.shape[1] <= NEIGHBOURS:
            continue  # too few pictures for balls of 10 neighbours
        ours, theirs = E.flatten(0, 1), base[name].flatten(0, 1)
        recalled, kept = covered(theirs, ours, NEIGHBOURS), covered(ours, theirs, NEIGHBOURS)
        for kind, inside in (("recall", recalled), ("precision", kept)):
            figures[f"{kind}/{name}"] = summarise(inside.view(len(E), -1).double().mean(1))
    return figures

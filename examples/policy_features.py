"""Do the policy's own features measure diversity, and does training move them by themselves?

    python examples/policy_features.py            # 4 minutes: the table of docs/encoders.md
    python examples/policy_features.py runs/mine  # what `mine`, trained by any encoder, did to them

The table: squared distances of two pictures of a prompt, by the features of `encoder=policy` and by
other things that could be kept of the same activations. Rank correlation (Spearman) with the
distances by dreamsim-tiny and by clip-tiny; and for style, scene and facing, as the Menagerie's
probe reads them, the AUC: how often a pair that differs lies farther apart than one that agrees
(a half is chance).
"""

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from drift.config import EvaluateConfig, load_run_config
from drift.encoders import load_encoder
from drift.files.hub import SHIPPED
from drift.functional.diversity import mean_pairwise_distance
from drift.functional.intervals import bootstrap_interval
from drift.menagerie.probe import Reading, load_probe, read
from drift.methods.parts import CleanPrompt
from drift.models import load_model
from drift.models.base import PLACES
from drift.recipes import read_prompts
from drift.training.policy import load_policy, put_weights
from drift.training.rollout import late_features, rollout
from drift.training.runs import choose_checkpoints
from drift.training.scoring import embed
from drift.types import PolicyModel, Rollout, StepPlan

JUDGES = ("dreamsim-tiny", "clip-tiny")
OTHERS = (*JUDGES, "vae")
CHOSEN = "policy"
Maps = Float[Tensor, "N T C h w"]  # activations of N trajectories, by step


def late(maps: Maps) -> Maps:
    return maps[:, -max(1, maps.shape[1] // 4) :]


def grid(maps: Maps, places: int) -> Float[Tensor, "N D"]:
    """Mean over steps, on a grid of places."""
    return F.adaptive_avg_pool2d(maps.mean(1), places).flatten(1)


def mean_and_std(maps: Maps) -> Float[Tensor, "N D"]:
    whole = maps.mean(1)
    return torch.cat([whole.mean((2, 3)), whole.std((2, 3))], 1)


# What one could keep of the middle block's activations, beside the 4x4 places of the late steps.
VARIANTS: dict[str, Callable[[Maps], Float[Tensor, "N D"]]] = {
    "2x2 places": lambda maps: grid(late(maps), 2),
    "one place": lambda maps: grid(late(maps), 1),
    "one place, mean and std": lambda maps: mean_and_std(late(maps)),
    "last step alone": lambda maps: grid(maps[:, -1:], PLACES),
    "all steps": lambda maps: grid(maps, PLACES),
}


# --- how far two measures of distance agree ---


def squared_distances(features: Float[Tensor, "N D"]) -> Float[Tensor, "pairs"]:
    """Of every pair, between features of length 1, as the diversity reward takes them."""
    return torch.pdist(F.normalize(features.double(), dim=1)).square()


def ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """From 1; equal values share the mean of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]


def spearman(one: Float[Tensor, "n"], two: Float[Tensor, "n"]) -> float:
    return torch.corrcoef(torch.stack([ranks(one), ranks(two)]))[0, 1].item()


def auc(distance: Float[Tensor, "n"], differs: Bool[Tensor, "n"]) -> float:
    """The chance that a pair that differs lies farther apart; NaN where all do, or none."""
    many, few = differs.sum().item(), (~differs).sum().item()
    above = ranks(distance)[differs].sum().item() - many * (many + 1) / 2
    return above / (many * few) if many and few else float("nan")


# --- the table ---


def draw(model, prompt: str, seeds: list[int], steps: int) -> tuple[Rollout, dict[str, Maps]]:
    """Trajectories, and the whole activations of two blocks, of the rows under the prompt."""
    seen: dict[str, list[Tensor]] = {"middle": [], "first up block": []}

    def watch(name: str):
        return lambda _, inputs, output: seen[name].append(output[-len(seeds) :])

    unet = model.network
    blocks = zip(seen, (unet.mid_block, unet.up_blocks[0]), strict=True)
    hooks = [block.register_forward_hook(watch(name)) for name, block in blocks]
    drawn = rollout(
        model,
        [prompt],
        [seeds],
        StepPlan.untrained(1, steps, 1.0),
        guidance_scale=2.0,
        batch_size=len(seeds),
        conditioning=CleanPrompt(),
        features=True,
    )
    for hook in hooks:
        hook.remove()
    return drawn, {name: torch.stack(maps, 1) for name, maps in seen.items()}


def describe(drawn: Rollout, maps: dict[str, Maps], encoders) -> dict[str, Float[Tensor, "N D"]]:
    """Features of one prompt's pictures, by everything that is compared."""
    assert drawn.features is not None
    features = {name: encoder(drawn.images[0]) for name, encoder in encoders.items()}
    features |= {CHOSEN: drawn.features[0]}
    features |= {f"- {name}": keep(maps["middle"]) for name, keep in VARIANTS.items()}
    return features | {"- first up block": grid(late(maps["first up block"]), PLACES)}


def measure(features: dict[str, Float[Tensor, "N D"]], seen: Reading) -> dict[str, list[float]]:
    """Of one prompt's pictures: agreement with both judges and the three attributes, and spread."""
    distance = {name: squared_distances(E) for name, E in features.items()}
    raw = features[CHOSEN].double()
    distance["- of any length"] = torch.pdist(raw).square() / raw.shape[1]
    i, j = torch.triu_indices(len(seen.x), len(seen.x), 1)
    labels = [kind.argmax(1) for kind in (seen.style, seen.scene, seen.facing)]
    return {
        name: [
            *(spearman(d, distance[judge]) for judge in JUDGES),
            *(auc(d, label[i] != label[j]) for label in labels),
            d.mean().item(),
        ]
        for name, d in distance.items()
    }


def interval(values: Float[Tensor, "P"]) -> tuple[float, float]:
    """95 %, of the mean over the prompts that have a value; without bounds where too few have."""
    known = values[values.isfinite()]
    if len(known) < 2:
        return -float("inf"), float("inf")
    return bootstrap_interval(known, torch.Generator().manual_seed(0))


def cell(values: Float[Tensor, "P"], chosen: Float[Tensor, "P"]) -> str:
    """Mean and its interval over prompts; + or − where it clearly lies above or below ours."""
    low, high = interval(values)
    least, most = interval(values - chosen)
    sign = " +" if least > 0 else " −" if most < 0 else ""
    return f"{values.nanmean():.2f} ({low:.2f}–{high:.2f}){sign}"


@torch.no_grad()
def table(prompts: list[str], images: int, seeds: tuple[int, ...], steps: int) -> list[str]:
    """A line a measure; every figure is of one prompt, and the mean over `seeds`."""
    model, probe = load_model("menagerie/model"), load_probe(SHIPPED / "probe")
    encoders = {name: load_encoder(name, policy="menagerie/model") for name in OTHERS}
    every, readings = [], []
    for prompt, seed in product(prompts, seeds):
        drawn, maps = draw(model, prompt, list(range(seed, seed + images)), steps)
        every.append(describe(drawn, maps, encoders))
        readings.append(read(probe, drawn.images[0]))
    middle = torch.cat([features[CHOSEN] for features in every]).mean(0)
    for features in every:
        features["- minus the mean of all"] = features[CHOSEN] - middle
    found = list(map(measure, every, readings))
    columns = {  # name -> "6 P"
        name: torch.tensor([figures[name] for figures in found])
        .unflatten(0, (len(prompts), len(seeds)))
        .nanmean(1)
        .T
        for name in found[0]
    }
    head = "| features | dreamsim-tiny | clip-tiny | style | scene | facing | mean distance |"
    lines = [f"{steps} steps", "", head, "|" + "---|" * 7]
    for name, figures in columns.items():
        *agreement, spread = figures
        cells = [cell(v, ours) for v, ours in zip(agreement, columns[CHOSEN][:-1], strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread.mean():.2f} |")
    return [*lines, ""]


# --- a run ---


def features_again(
    model: PolicyModel, drawn: Rollout, config: EvaluateConfig
) -> Float[Tensor, "P N D"]:
    """What the model as it is now computes on the states of trajectories drawn before."""
    schedule = model.schedule(config.steps)
    P, N = drawn.seeds.shape
    told = drawn.conditioned.each(lambda e: e.repeat_interleave(N, 0))
    with model.capture_features() as seen:
        for k in range(config.steps):
            states = drawn.latents[:, :, k].flatten(0, 1)
            times = schedule.timesteps[k].expand(P * N)
            model.predict(states, times, told, config.guidance_scale)
    return late_features(seen).unflatten(0, (P, N))


@torch.no_grad()
def course(run: Path, images: int = 16) -> list[str]:
    """Mean diversity of the run's pictures, checkpoint by checkpoint, by several judges."""
    config = load_run_config(run)
    judged, model = config.evaluation, load_policy(config)
    prompts = read_prompts(judged.prompts or config.prompts)
    encoders = {name: load_encoder(name) for name in JUDGES}

    def sample() -> Rollout:
        return rollout(
            model,
            prompts,
            [[judged.seed + k for k in range(images)]] * len(prompts),
            StepPlan.untrained(len(prompts), judged.steps, judged.eta),
            guidance_scale=judged.guidance_scale,
            batch_size=judged.batch_size,
            conditioning=CleanPrompt(),
            features=True,
        )

    at_base = sample()
    lines = [
        "| epoch | dreamsim-tiny | clip-tiny | own features, own pictures | the base model's "
        "features, own pictures | own features, the base model's pictures |",
        "|" + "---|" * 6,
    ]
    for checkpoint in [None, *choose_checkpoints(run, "all")]:
        if checkpoint:
            put_weights(model, config, checkpoint.folder)
        drawn = sample() if checkpoint else at_base
        assert drawn.features is not None
        seen = [embed(encoder, drawn.images, prompts) for encoder in encoders.values()]
        seen += [drawn.features]
        if checkpoint:
            with model.reference():
                seen += [features_again(model, drawn, judged)]
            seen += [features_again(model, at_base, judged)]
        else:
            seen += [drawn.features] * 2
        cells = " | ".join(f"{mean_pairwise_distance(E).mean():.3f}" for E in seen)
        lines.append(f"| {checkpoint.epoch if checkpoint else 0} | {cells} |")
    return lines


def main(run: Path | None = None) -> None:
    if run:
        print("\n".join(course(run)))
        return
    for steps in (5, 10, 20):
        lines = table(read_prompts("menagerie-heldout"), 32, (0, 1000), steps)
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

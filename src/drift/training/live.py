"""Looks at the policy while it trains: reward and diversity of a few pictures, and an alarm.

Every look draws the same prompts from the same seeds, by the evaluation's sampler. It leaves the
training alone: weights and metrics are the same to the bit with and without. Lines go to
live.jsonl, the base model's first; it is what others are shares of.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drift.config import LiveConfig, TrainConfig
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.files.records import parse_object
from drift.functional.diversity import mean_pairwise_distance
from drift.functional.pareto import frontier
from drift.methods.parts import CleanPrompt
from drift.recipes import read_fields
from drift.training.checkpoint import delete_checkpoints, list_checkpoints
from drift.training.rollout import draw_by
from drift.training.scoring import embed, score
from drift.training.tracking import LIVE, append_metrics
from drift.types import ImageEncoder, PolicyModel, Reward


@dataclass
class Live:
    """What looks are taken with, and what they have seen."""

    config: LiveConfig
    settings: dict[str, Any]  # all that decides a look besides the weights
    encoders: dict[str, ImageEncoder]  # by name: the alarm's, and the training's
    looks: list[dict[str, Any]]  # the lines of live.jsonl


def open_live(config: TrainConfig, device: str, own: ImageEncoder | None) -> Live | None:
    """Load what looks need, besides the training's `own` encoder, which is looked with as well."""
    live, asked, name = config.live, config.evaluation, config.live_encoder
    if not live.every:
        return None
    fields = read_fields(asked.prompts or config.prompts, field="evaluation.prompts")
    listed, count = list(fields), min(live.prompts_count, len(fields))
    prompts = [listed[k * len(listed) // count] for k in range(count)]
    told = {prompt: fields[prompt] for prompt in prompts if fields[prompt]}
    settings = {
        "prompts": prompts,
        "images_per_prompt": live.images_per_prompt,
        "seed": live.seed,
        **config.judging_sampler,
        "encoder": name,
        **({"fields": told} if told else {}),
    }
    encoders = {config.encoder: own} if own else {}
    if name not in encoders:
        with undisturbed(torch.device(device)):  # a new network's weights are drawn, then replaced
            encoders[name] = load_encoder(name, device, policy=config.model.name)
    return Live(live, settings, encoders, [])


def recall(live: Live, run: Path, lines: list[bytes]) -> None:
    """Know again what was seen of the finished epochs; refuses looks that cannot be compared."""
    live.looks = [parse_object(line) for line in lines]
    before = live.looks[0].get("settings", {}) if live.looks else live.settings
    now = live.settings
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"cannot resume {run}: its {LIVE} was made with other {', '.join(changed)}; "
            "set live.* as before, or live.every=0, or move the file away"
        )


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever draws from the global generators inside, as a reward of one's own may, is undone."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def look(
    live: Live, run: Path, model: PolicyModel, reward: Reward, config: TrainConfig, epoch: int
) -> dict[str, Any]:
    """Draw and judge, and write the line of live.jsonl.

    Epoch 0 is the base model whatever has been trained, under the clean prompt as when evaluated.
    """
    start, asked, prompts = time.perf_counter(), live.settings, live.settings["prompts"]
    at_once = config.sampling.scoring_batch_size
    seeds = [[asked["seed"] + k for k in range(asked["images_per_prompt"])]] * len(prompts)
    with undisturbed(model.device), nullcontext() if epoch else model.reference():
        drawn = draw_by(
            model,
            prompts,
            seeds,
            asked,
            batch_size=config.sampling.batch_size,
            conditioning=config.method.conditioning.at_test() if epoch else CleanPrompt(),
            decode_batch_size=config.sampling.decode_batch_size,
        )
        scores = score(reward, drawn.images, prompts, at_once)
        features = {n: embed(e, drawn.images, prompts, at_once) for n, e in live.encoders.items()}
    diversity = {n: mean_pairwise_distance(E).mean().item() for n, E in features.items()}
    base = live.looks[0]["diversity"] if live.looks else diversity
    if min(base.values()) <= 0:
        raise UserError("live: the base model's pictures are all alike, so no look can tell more")
    line = {
        "epoch": epoch,
        "images_sampled": epoch * config.images_sampled,
        "reward": scores.mean().item(),
        "diversity": diversity,
        "share": {n: value / base[n] for n, value in diversity.items()},
        "seconds": round(time.perf_counter() - start, 3),
    }
    if not live.looks:
        line["settings"] = live.settings
    append_metrics(run, [line], LIVE)
    live.looks.append(line)
    return line


def alarm(live: Live | None) -> dict[str, str]:
    """What the last look warns of, as `drift.training.diagnostics.warnings` tells it."""
    if live is None or not live.looks:
        return {}
    last, name = live.looks[-1], live.settings["encoder"]
    share, least = last["share"][name], live.config.alarm_share
    if share >= least:
        return {}
    told = (
        f"at epoch {last['epoch']} diversity by {name} is {last['diversity'][name]:.3f}, "
        f"{share:.3f} of the base model's; live.alarm_share is {least}"
    )
    return {"collapse": f"collapse alarm: {told}"}


def stops(live: Live | None) -> bool:
    """Whether training should end here."""
    return live is not None and live.config.on_alarm == "stop" and bool(alarm(live))


def prune(run: Path, live: Live | None, last: int) -> None:
    """With `keep: pareto`, delete each checkpoint that another one dominates in its look.

    Never that of epoch `last`, which a resume needs and which must be safely on disk by now.
    Damaged ones, and those that were not looked at, decide nothing and are left alone.
    """
    if live is None or live.config.keep == "all":
        return
    name = live.settings["encoder"]
    seen = {look["epoch"]: (look["reward"], look["diversity"][name]) for look in live.looks}
    known = [c for c in list_checkpoints(run)[0] if c.epoch in seen]
    points = torch.tensor([seen[c.epoch] for c in known], dtype=torch.double).view(-1, 2)
    best = frontier(*points.T).tolist()
    needless = [c for c, on in zip(known, best, strict=True) if not on and c.epoch != last]
    delete_checkpoints(run, needless)

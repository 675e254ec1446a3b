"""`drift doctor`: is everything there, is the replay exact, and what will a run cost?

Nothing is trained and nothing is written. The estimates are extrapolated from a small rollout and
one backward pass on this machine, now.
"""

import platform
from collections.abc import Callable
from typing import Any

import psutil
import torch

from drift.config import TrainConfig
from drift.errors import UserError
from drift.functional.advantages import group_advantages
from drift.recipes import read_prompts
from drift.training.cuts import cut_prompts
from drift.training.live import open_live
from drift.training.needs import check_names
from drift.training.plan import changes, plan
from drift.training.policy import load_policy, pick_device
from drift.training.preflight import check_replay, prepare
from drift.training.rollout import sample_pool
from drift.training.scoring import features_of, open_encoder, open_reward, score
from drift.training.trackers import check_trackers
from drift.training.tracking import Stopwatch
from drift.training.update import Signal, trained_pairs, trial_gradient

GIB = 2**30


def examine(config: TrainConfig, say: Callable[[str], None] = print) -> bool:
    """Tell line by line what is found; whether a run could start."""
    if config.threads:
        torch.set_num_threads(config.threads)
    for line in (*_machine(), *_geometry(config)):
        say(line)
    prompts = read_prompts(config.prompts)
    check_trackers(config.trackers)
    say(f"prompts     {len(prompts)} in {config.prompts}")
    if config.model.adapter:
        say(f"adapter     {config.model.adapter}, to {config.model.adapter_use}")
    watching = config.live_encoder if config.live.every else ""
    judges = ", ".join([*config.judging_rewards, *config.judging_encoders])
    parts, complete, device = {}, True, str(pick_device(config.device))
    for name, load, wanted in [
        ("model", lambda: load_policy(config), config.model.name),
        ("reward", lambda: open_reward(config, device), config.reward),
        ("encoder", lambda: open_encoder(config, device), config.encoder),
        ("live", lambda: open_live(config, device, parts.get("encoder")), watching),
        ("evaluation", lambda: check_names(config), judges),
    ]:
        try:
            parts[name] = load() if wanted else None
            say(f"{name:11} {wanted or 'none'}")
        except UserError as error:
            say(f"{name:11} MISSING  {error}")
            complete = False
    if not complete:
        say("preflight   not run: weights are missing")
        return False
    for line in cut_prompts(parts["model"], prompts):
        say(line)
    try:
        parts.pop("evaluation")
        for line in _trial(config, prompts, **parts):
            say(line)
    except UserError as error:
        say(f"FAILED      {error}")
        return False
    return True


def _machine() -> list[str]:
    memory = psutil.virtual_memory()
    lines = [
        f"machine     {platform.machine()}, {torch.get_num_threads()} threads, "
        f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    ]
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        lines.append(f"device      {name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    return lines


def _geometry(config: TrainConfig) -> list[str]:
    s, o = config.sampling, config.optimizer
    return [
        f"method      {config.method_name or 'custom'}",
        f"epoch       {s.prompts_per_epoch} prompts x {s.pool_size} candidates = "
        f"{config.images_sampled} sampled, {config.images_kept} kept",
        f"updates     {o.updates_per_epoch} an epoch, of {config.samples_per_update} samples x "
        f"{s.steps} steps",
    ]


def _trial(config: TrainConfig, prompts: list[str], model, reward, encoder, live) -> list[str]:
    """A small rollout, scored and replayed, and one backward pass: the ratio, time and memory."""
    clock = Stopwatch()
    prepare(model, config)
    encoders = live.encoders.values() if live else [encoder]
    asked, config = config, plan(config, model, reward, *encoders)
    s, o = config.sampling, config.optimizer
    group = min(4, s.group_size)
    clock.lap("loading")
    seeds = [[10 * p + k for k in range(group)] for p in range(len(prompts[:2]))]
    pool = sample_pool(model, prompts[:2], seeds, config)
    images = pool.log_probs.shape[0] * group
    clock.lap("rollout")
    rewards = score(reward, pool.images, pool.prompts, s.scoring_batch_size)
    clock.lap("scoring")
    features_of(encoder, pool, s.scoring_batch_size)
    clock.lap("embedding")
    worst = check_replay(model, pool, config)
    clock.lap("preflight")
    every = trained_pairs(pool, torch.arange(images))
    pairs = every[: o.micro_batch_size]
    trial_gradient(model, pool, Signal(group_advantages(rewards)), config, pairs)
    clock.lap("backward")

    seconds = _epoch_seconds(clock.seconds, images, len(pairs), len(every) / images, config)
    total = sum(seconds.values())
    stored = pool.latents[0, 0].numel() + pool.images[0, 0].numel()
    trained = sum(p.numel() for p in model.trainable_parameters())
    later = 4 * trained + stored * config.images_sampled  # two moments, two gradients; the pool
    memory = psutil.Process().memory_info().rss + 4 * later
    on_card = (
        f", and {torch.cuda.max_memory_reserved(model.device) / GIB:.1f} GiB on the card"
        if model.device.type == "cuda"
        else ""
    )
    named = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    return [
        f"trained     {config.model.tune}: {trained / 1e6:.2f} M weights",
        f"dtype       {config.model.dtype}",
        f"batches     {s.batch_size} images sampled at once, {s.decode_batch_size} decoded, "
        f"{s.scoring_batch_size} scored; {o.micro_batch_size} pairs trained on",
        *(f"            {line}" for line in changes(asked, config)),
        f"preflight   ratio 1 to {worst:.1e} at every step before the first update",
        f"time        about {total:.1f} s an epoch ({named}), "
        f"{total * config.epochs / 3600:.2f} h for {config.epochs} epochs",
        *([_looks(clock.seconds, images, config, live.settings)] if live else []),
        f"memory      about {memory / GIB:.1f} GiB{on_card}",
    ]


def _looks(spent: dict[str, float], images: int, config: TrainConfig, look: dict[str, Any]) -> str:
    """What a look of these settings costs, by what was spent on `images` of the training's."""
    drawn = len(look["prompts"]) * look["images_per_prompt"]
    sampled = spent["rollout"] * look["steps"] / config.sampling.steps
    seconds = (sampled + spent["scoring"] + spent["embedding"]) / images * drawn
    return (
        f"looks       about {seconds:.1f} s each, of {drawn} images; one every "
        f"{config.live.every} epochs and one of every checkpoint"
    )


def _epoch_seconds(
    spent: dict[str, float], images: int, pairs: int, steps: float, config: TrainConfig
) -> dict[str, float]:
    """An epoch's seconds by stage, from those spent on `images` and on `pairs` backward.

    `steps` of each sample are trained on.
    """
    return {
        "sampling": spent["rollout"] / images * config.images_sampled,
        "scoring": spent["scoring"] / images * config.images_sampled
        + spent["embedding"] / images * config.images_kept,
        "update": spent["backward"] / pairs * config.images_kept * steps,
    }

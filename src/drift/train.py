"""The training loop. It never asks which method it runs."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drift.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from drift.config import TrainConfig, load_run_config, read_prompts, to_yaml
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.functional.noise import derive_seed
from drift.functional.shaping import intra_group_diversity
from drift.models import load_model
from drift.rewards import load_reward
from drift.rollout import rollout
from drift.scoring import embed, score
from drift.tracking import append_metrics, environment, truncate_metrics
from drift.types import ImageEncoder, Reward
from drift.update import update_policy


def draw_prompts(prompts: list[str], count: int, seed: int, epoch: int) -> list[str]:
    """The prompts of one epoch: walks through a fresh shuffle of the list before any repeats."""
    chosen = []
    for place in range((epoch - 1) * count, epoch * count):
        lap, index = divmod(place, len(prompts))
        generator = torch.Generator().manual_seed(derive_seed(seed, lap))
        chosen.append(prompts[int(torch.randperm(len(prompts), generator=generator)[index])])
    return chosen


def train_epoch(
    model,
    optimizer: torch.optim.Optimizer,
    reward: Reward,
    encoder: ImageEncoder,
    prompts: list[str],
    config: TrainConfig,
    epoch: int,
) -> list[dict[str, Any]]:
    """Rollout, scoring, selection, shaping, advantages, update; returns one line per update."""
    method, sampling, start = config.method, config.sampling, time.perf_counter()
    seeds = [
        [derive_seed(config.seed, epoch, p, c) for c in range(sampling.pool_size)]
        for p in range(len(prompts))
    ]
    pool = rollout(
        model,
        prompts,
        seeds,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        eta=sampling.eta,
        batch_size=sampling.batch_size,
        conditioning=method.conditioning,
    )
    sampled = time.perf_counter()

    pool_rewards = score(reward, pool.images, prompts)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, epoch, -2))
    chosen = method.selection(pool_rewards, sampling.group_size, generator)
    kept, rewards = pool.keep(chosen), pool_rewards.gather(1, chosen)
    features = embed(encoder, kept.images)
    intrinsic = method.shaping(features, sampling.steps)
    advantages = method.advantage(rewards, intrinsic, method.shaping.weight)
    scored = time.perf_counter()

    updates = update_policy(model, optimizer, kept, advantages, config, epoch)
    seconds = {
        "rollout": sampled - start,
        "scoring": scored - sampled,
        "update": time.perf_counter() - scored,
    }
    shared = {
        "epoch": epoch,
        "images_sampled": epoch * pool_rewards.numel(),
        "reward_mean": pool_rewards.mean().item(),
        "reward_std": pool_rewards.std(1, correction=0).mean().item(),
        "kept_reward_mean": rewards.mean().item(),
        "kept_reward_std": rewards.std(1, correction=0).mean().item(),
        "diversity": intra_group_diversity(features).mean().item(),
        "intrinsic_clipped": (intrinsic >= method.shaping.upper).float().mean().item(),
        "advantage_abs_mean": advantages.abs().mean().item(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    lines = [shared | {"update": k} | asdict(stats) for k, stats in enumerate(updates, 1)]
    return [line | {"first_clip_fraction": updates[0].clip_fraction} for line in lines]


def open_run(config: TrainConfig, resume: bool) -> Path:
    """The run folder, new or continued; refuses one that holds another run."""
    run = Path(config.output)
    if resume:
        before = load_run_config(run)
        old, new = (asdict(c) | {"epochs": 0, "output": ""} for c in (before, config))
        changed = [key for key in old if old[key] != new[key]]
        if changed:
            raise UserError(f"cannot resume {run}: its config.yaml has other {', '.join(changed)}")

        return run
    if (run / "config.yaml").exists():
        raise UserError(f"output: {run} already holds a run; use --resume, or another output=DIR")
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        (run / "environment.json").write_text(json.dumps(environment(), indent=1))
    except OSError as error:
        raise UserError(f"output: cannot write to {run}: {error.strerror}") from error
    return run


def train(config: TrainConfig, *, resume: bool = False, progress: bool = True) -> Path:
    """Run (or finish) a training; returns the run folder."""
    if config.threads:
        torch.set_num_threads(config.threads)
    prompts = read_prompts(config.prompts)
    model = load_model(config.model.name)
    reward, encoder = load_reward(config.reward), load_encoder(config.encoder)
    run = open_run(config, resume)
    adapter = config.model
    model.add_adapter(
        adapter.lora_rank, adapter.lora_alpha, adapter.target_modules, seed=config.seed
    )
    optimizer = torch.optim.AdamW(
        model.trainable_parameters(),
        lr=config.optimizer.learning_rate,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        weight_decay=config.optimizer.weight_decay,
        eps=config.optimizer.epsilon,
    )
    finished = _restore(run, model, optimizer) if resume else 0
    if finished >= config.epochs:
        tqdm.write(f"{run} is finished: {finished} epochs")
    bar = tqdm(
        range(finished + 1, config.epochs + 1),
        desc=config.method_name,
        initial=finished,
        total=config.epochs,
        disable=not progress,
        unit="epoch",
    )
    for epoch in bar:
        drawn = draw_prompts(prompts, config.sampling.prompts_per_epoch, config.seed, epoch)
        lines = train_epoch(model, optimizer, reward, encoder, drawn, config, epoch)
        append_metrics(run, lines)
        last = lines[-1]
        bar.set_postfix(reward=f"{last['reward_mean']:.3f}", diversity=f"{last['diversity']:.3f}")
        if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
            save_checkpoint(run, epoch, model, optimizer)
    return run


def _restore(run: Path, model, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest valid checkpoint; returns the epochs it has finished (0 without one)."""
    valid, damaged = list_checkpoints(run)
    for line in damaged:
        tqdm.write(f"skipped {line}")
    if valid:
        load_checkpoint(valid[-1], model, optimizer)
    finished = valid[-1].epoch if valid else 0
    truncate_metrics(run, finished)
    return finished

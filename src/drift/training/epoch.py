"""One epoch: draw pictures, learn what they teach, take the updates. Never asks for the method."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from drift.config import TrainConfig
from drift.functional.noise import derive_seed
from drift.methods.parts import Advantages, Method, Shaped
from drift.methods.parts.objective import Weight
from drift.training.checkpoint import Checkpoint
from drift.training.diagnostics import (
    describe_advantages,
    describe_diversity,
    describe_rewards,
)
from drift.training.live import Live
from drift.training.preflight import check_replay
from drift.training.rollout import pool_seeds, sample_pool, trained_schedule
from drift.training.scoring import features_of, score
from drift.training.tracking import Stopwatch
from drift.training.update import Learner, Signal, update_policy
from drift.types import Group, ImageEncoder, PolicyModel, Reward, Rollout, State


@dataclass
class Run:
    """What a training holds: the parts, and the state that a checkpoint brings back."""

    config: TrainConfig  # with the batch sizes that were planned
    folder: Path
    model: PolicyModel
    learner: Learner
    reward: Reward
    encoder: ImageEncoder | None
    live: Live | None
    method_state: dict[str, State]  # by slot
    finished: int  # epochs
    saved: int = 0  # the epoch of the newest checkpoint
    checked: bool = False  # that a replay is exact, since the start or the resume
    passing: Checkpoint | None = None  # of an interruption; it goes when the next one is there


@dataclass(frozen=True)
class Lesson:
    """What an epoch's pictures teach: trajectories to replay, and what each is worth."""

    kept: Rollout
    signal: Signal
    state: dict[str, State]  # of the slots, once it is taken
    described: dict[str, Any]  # figures for the log


def apply_method(
    method: Method, group: Group, state: dict[str, State]
) -> tuple[Shaped, Advantages, Weight]:
    """Shaping, advantages and the penalty's weight of an epoch; `state` of the slots moves on."""
    shaped, state["shaping"] = method.shaping(group, state.get("shaping", {}))
    advantages, state["advantage"] = method.advantage(group, shaped, state.get("advantage", {}))
    beta, state["regulariser"] = method.regulariser(group, state.get("regulariser", {}))
    return shaped, advantages, beta


def take_lesson(run: Run, prompts: list[str], epoch: int, clock: Stopwatch) -> Lesson:
    """Rollout, scoring, selection, shaping, advantages; the run is left as it is."""
    config, method, state = run.config, run.config.method, dict(run.method_state)
    pool = sample_pool(run.model, prompts, pool_seeds(config, epoch), config, epoch)
    clock.lap("rollout")
    at_once = config.sampling.scoring_batch_size
    pool_rewards = score(run.reward, pool.images, prompts, at_once)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, epoch, -2))
    chosen = method.selection(pool_rewards, config.sampling.group_size, generator)
    kept, rewards = pool.keep(chosen), pool_rewards.gather(1, chosen)
    del pool  # the paper's is 1.7 GB, and the update needs memory
    features = features_of(run.encoder, kept, at_once)
    group = Group(prompts, rewards, features, config.sampling.steps, epoch)
    shaped, advantages, beta = apply_method(method, group, state)
    clock.lap("scoring")
    fractions = trained_schedule(run.model, config).fractions.cpu()
    conditioning = method.conditioning.in_training()
    described = {
        "images_sampled": epoch * pool_rewards.numel(),
        **describe_rewards(pool_rewards, rewards),
        **describe_diversity(features, shaped.intrinsic, method.shaping.upper),
        **describe_advantages(advantages),
        "prompt_signal": conditioning.signal_share(kept.conditioned, fractions).tolist(),
    }
    return Lesson(kept, Signal(advantages.total, beta), state, described)


def train_epoch(run: Run, prompts: list[str], epoch: int) -> list[dict[str, Any]]:
    """A lesson, and the updates on it; returns one line per update.

    An `Interrupted` from here leaves the run as it was after the epoch before.
    """
    config, clock = run.config, Stopwatch()
    lesson = take_lesson(run, prompts, epoch, clock)
    if not run.checked:
        check_replay(run.model, lesson.kept, config)
        run.checked = True
        clock.lap("preflight")
    updates = update_policy(run.model, run.learner, lesson.kept, lesson.signal, config, epoch)
    run.method_state, run.finished = lesson.state, epoch
    clock.lap("update")
    shared = {
        "epoch": epoch,
        **lesson.described,
        "first_clip_fraction": updates[0].clip_fraction,
        "seconds": clock.seconds,
    }
    return [shared | {"update": k} | asdict(stats) for k, stats in enumerate(updates, 1)]

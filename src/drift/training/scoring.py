"""Rewards and features of sampled images, and what must hold of both."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drift.config import OWN_FEATURES, TrainConfig, WorkerConfig
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.recipes import read_fields
from drift.rewards import NO_FIELDS, check_rewards, load_rewards
from drift.rewards.checks import check_scores
from drift.rewards.worker import load_in_worker
from drift.training.memory import in_batches
from drift.types import Fields, ImageEncoder, Reward, Rollout

SMALLEST = 4  # pixels a side; less is no picture
AT_ONCE = 64  # images, where nobody says
FIELD = "sampling.scoring_batch_size"


def open_rewards(
    names: Sequence[str],
    worker: WorkerConfig,
    device: str = "cpu",
    fields: Fields = NO_FIELDS,
) -> dict[str, Reward]:
    """The rewards of these names on `device`; with a time limit, in a process of their own.

    `fields` has every prompt that they will be asked about, with what its file says of it.
    """
    check_rewards(names)
    if not worker.timeout:
        return load_rewards(names, device, fields)
    return load_in_worker(
        names,
        device=worker.device,
        threads=worker.threads,
        timeout=worker.timeout,
        loading=worker.loading,
        fields=fields,
    )


def open_reward(config: TrainConfig, device: str) -> Reward:
    """The reward that is trained for, and looked with."""
    fields = prompt_fields(config)
    return open_rewards([config.reward], config.reward_worker, device, fields)[config.reward]


def prompt_fields(config: TrainConfig) -> Fields:
    """Every prompt that training and its looks may ask the reward about, with its fields."""
    fields, judged = read_fields(config.prompts), config.evaluation.prompts
    if config.live.every and judged:
        for prompt, others in read_fields(judged, field="evaluation.prompts").items():
            if fields.setdefault(prompt, others) != others:
                raise UserError(
                    f"evaluation.prompts: '{judged}' has other fields for '{prompt}' than "
                    f"'{config.prompts}', and live looks (live.every) want one reward for both"
                )
    return fields


def open_encoder(config: TrainConfig, device: str) -> ImageEncoder | None:
    """The encoder that diversity is measured by in training, if that is a network of its own."""
    wanted, policy = config.encoder, config.model.name
    alone = wanted not in ("", OWN_FEATURES)
    return load_encoder(wanted, device, policy=policy) if alone else None


def check_images(images: Float[Tensor, "P C 3 H W"], prompts: Sequence[str]) -> None:
    """Refuse images that no reward or encoder could make sense of."""
    H, W = images.shape[-2:]
    if min(H, W) < SMALLEST:
        raise UserError(f"images of {H}x{W} pixels cannot be judged: {SMALLEST} a side at least")
    broken = (~images.isfinite()).flatten(2).any(-1).nonzero()
    if len(broken):
        prompt = prompts[int(broken[0, 0])]
        raise UserError(f"an image for '{prompt}' has pixels that are NaN or infinite")


@torch.no_grad()
def score(
    reward: Reward,
    images: Float[Tensor, "P C 3 H W"],
    prompts: list[str],
    batch_size: int = AT_ONCE,
) -> Float[Tensor, "P C"]:
    """The raw reward of every image under its own prompt. Not finite is an error.

    `batch_size` images at once, fewer where they do not fit into memory; one that is `per_group`
    gets a whole group. Rewards get contiguous images: how they lie may move a network's last bits.
    """
    check_images(images, prompts)
    P, C = images.shape[:2]
    flat, parts = images.flatten(0, 1), []

    def judge(rows: Int[Tensor, "N"]) -> None:
        repeated = [prompts[row // C] for row in rows.tolist()]
        scores = reward(flat[rows].contiguous(), repeated)
        parts.append(check_scores(scores, repeated))

    rows = torch.arange(P * C)
    if getattr(reward, "per_group", False):
        in_batches(lambda group: judge(group[0]), rows.view(P, C), 1, field=FIELD)
    else:
        in_batches(judge, rows, batch_size, field=FIELD)
    return torch.cat(parts).view(P, C)


@torch.no_grad()
def embed(
    encoder: ImageEncoder | None,
    images: Float[Tensor, "P G 3 H W"],
    prompts: list[str],
    batch_size: int = AT_ONCE,
) -> Float[Tensor, "P G D"]:
    """Features of every image; without an encoder, of no width. `prompts` are for errors only."""
    if encoder is None:
        return images.new_zeros(*images.shape[:2], 0)
    check_images(images, prompts)
    P, G = images.shape[:2]
    flat, parts = images.flatten(0, 1), []

    def encode(rows: Int[Tensor, "N"]) -> None:
        part = encoder(flat[rows]).float()
        if part.ndim != 2 or len(part) != len(rows):
            raise UserError(f"the encoder returned {tuple(part.shape)} for {len(rows)} images")
        parts.append(part)

    in_batches(encode, torch.arange(P * G), batch_size, field=FIELD)
    return _finite(torch.cat(parts).unflatten(0, (P, G)), prompts)


def features_of(
    encoder: ImageEncoder | None, kept: Rollout, batch_size: int = AT_ONCE
) -> Float[Tensor, "P G D"]:
    """The policy's own features if the rollout captured them, else the encoder's of the images."""
    if kept.features is None:
        return embed(encoder, kept.images, kept.prompts, batch_size)
    return _finite(kept.features, kept.prompts)


def _finite(features: Float[Tensor, "P G D"], prompts: list[str]) -> Float[Tensor, "P G D"]:
    broken = (~features.isfinite()).flatten(1).any(1).nonzero()
    if len(broken):
        prompt = prompts[int(broken[0])]
        raise UserError(f"the encoder's features of an image for '{prompt}' are not finite")
    return features

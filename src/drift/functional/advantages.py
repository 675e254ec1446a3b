"""Advantages from rewards (DRIFT, Section 3, Eq. 3, and Section 5.3, Eq. 14).

Ours, where the paper is silent: std is the population std plus eps, and rewards that are all
equal give exactly 0, since the rounding of their mean must not be amplified into a signal.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def group_advantages(rewards: Float[Tensor, "P G"], eps: float = 1e-6) -> Float[Tensor, "P G"]:
    """Advantage within each prompt's group (GRPO; DRIFT, Eq. 3): (r - mean) / (std + eps)."""
    return _standardise(rewards, eps)


def batch_advantages(rewards: Float[Tensor, "P G"], eps: float = 1e-6) -> Float[Tensor, "P G"]:
    """Advantage over the whole batch, prompts pooled (DDPO, Black et al., Section 4).

    Unlike Eq. 3 it prefers easy prompts: a prompt that scores above the others is reinforced.
    """
    return _standardise(rewards.reshape(1, -1), eps).reshape(rewards.shape)


def buffered_advantages(
    rewards: Float[Tensor, "P G"],
    buffers: Sequence[Float[Tensor, "_"]],
    min_count: int,
    eps: float = 1e-6,
) -> Float[Tensor, "P G"]:
    """Advantage over each prompt's recent rewards (DDPO; PerPromptStatTracker of its PyTorch code).

    `buffers[p]` are the latest rewards of prompt p, those of this batch among them. A prompt with
    fewer than `min_count` is normalised by the whole batch. What equals an all-equal buffer gets
    exactly 0.
    """
    pooled = rewards.flatten()
    rows = []
    for row, buffer in zip(rewards, buffers, strict=True):
        known = buffer.to(rewards) if len(buffer) >= min_count else pooled
        z = (row - known.mean()) / (known.std(correction=0) + eps)
        rows.append(z.masked_fill(row == known[0], 0.0) if (known == known[0]).all() else z)
    return torch.stack(rows)


def combine(
    advantages: Float[Tensor, "P G"],
    intrinsic: Float[Tensor, "P G"],
    weight: float | Float[Tensor, "P G"],
) -> Float[Tensor, "P G"]:
    """Decoupled advantage (DRIFT, Eq. 14): A + lambda·A_int, each normalised by its own group.

    Both arguments are `group_advantages` already: one of the reward, one of the clipped R_int.
    """
    return advantages + weight * intrinsic


def _standardise(x: Float[Tensor, "P G"], eps: float) -> Float[Tensor, "P G"]:
    if x.shape[1] < 2:
        raise ValueError(f"an advantage compares at least 2 rewards, got {x.shape[1]}")
    z = (x - x.mean(1, keepdim=True)) / (x.std(1, correction=0, keepdim=True) + eps)
    return z.masked_fill((x == x[:, :1]).all(1, keepdim=True), 0.0)

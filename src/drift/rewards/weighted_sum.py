"""A weighted sum of rewards, itself a reward.

Weights are of raw scores, whose units differ from reward to reward (`drift.reward_names`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drift.rewards.checks import check_scores
from drift.types import Reward


@dataclass(frozen=True)
class WeightedSum:
    """The sum of `weights[name] * parts[name]`, added up in the order of `weights`."""

    weights: Mapping[str, float]
    parts: Mapping[str, Reward]

    @property
    def per_group(self) -> bool:
        return any(getattr(self.parts[name], "per_group", False) for name in self.weights)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        total = torch.zeros(len(images), device=images.device)
        for name, weight in self.weights.items():
            scores = check_scores(self.parts[name](images, prompts), prompts, f"the reward {name}")
            total += weight * scores.to(images.device)
        return total


def combine(weights: Mapping[str, float], parts: Mapping[str, Reward]) -> Reward:
    """The sum of `weights`; a single part of weight 1 is itself."""
    name, weight = next(iter(weights.items()))
    return parts[name] if len(weights) == 1 and weight == 1 else WeightedSum(weights, parts)

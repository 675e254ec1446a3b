"""Weighting: (schedule, noise level) -> weights "T" of the steps in the loss.

Their mean over the steps that draw noise is 1.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift.errors import UserError, refuse
from drift.ranges import LISTED, STRICT, Weight
from drift.types import Schedule


@dataclass(frozen=True, config=STRICT)
class SameWeights:
    """Every step counts the same, as in the paper."""

    kind: Literal["same"] = "same"

    def __call__(self, schedule: Schedule, noise_level: float) -> Float[Tensor, "T"]:
        return torch.ones_like(schedule.fractions)


@dataclass(frozen=True, config=STRICT)
class BalancedWeights:
    """Every step's gradient counts the same (ours; after TempFlow-GRPO's noise-aware weighting).

    The late steps, whose noise is small, have by far the largest gradients and decide the least:
    where few images are sampled, their chance drowns what the early steps teach.
    """

    kind: Literal["balanced"] = "balanced"

    def __call__(self, schedule: Schedule, noise_level: float) -> Float[Tensor, "T"]:
        weights = 1 / schedule.sensitivity(noise_level)  # a step without noise weighs 0
        return weights / weights[schedule.noisy(noise_level)].mean()


@dataclass(frozen=True, config=STRICT)
class GivenWeights:
    """A weight for each step, first to last; only their ratios count.

    Those by which independent batches agree best: `python -m benchmarks signal` measures them.
    """

    weights: Annotated[tuple[Weight, ...], LISTED]
    kind: Literal["given"] = "given"

    def __post_init__(self) -> None:
        refuse(not any(self.weights), "weights are one for each step, and not all 0")

    def __call__(self, schedule: Schedule, noise_level: float) -> Float[Tensor, "T"]:
        noisy = schedule.noisy(noise_level)
        if len(self.weights) != len(noisy):
            raise UserError(
                f"method.weighting.weights: {len(self.weights)} weights for {len(noisy)} steps"
            )
        weights = torch.tensor(self.weights).to(schedule.fractions) * noisy
        return weights / weights[noisy].mean()


Weighting = Annotated[SameWeights | BalancedWeights | GivenWeights, Discriminator("kind")]

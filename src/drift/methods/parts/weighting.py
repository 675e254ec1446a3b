"""Weighting: (schedule, eta) -> weights "T" of the steps in the loss, mean 1 over noisy steps."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Discriminator
from torch import Tensor

from drift.functional.dynamics import step_sensitivity
from drift.types import Schedule


@dataclass(frozen=True)
class SameWeights:
    """Every step counts the same, as in the paper."""

    kind: Literal["same"] = "same"

    def __call__(self, schedule: Schedule, eta: float) -> Float[Tensor, "T"]:
        return torch.ones_like(schedule.alphas)


@dataclass(frozen=True)
class BalancedWeights:
    """Every step's gradient counts the same (ours; after TempFlow-GRPO's noise-aware weighting).

    The late steps, whose noise is small, have by far the largest gradients and decide the least:
    where few images are sampled, their chance drowns what the early steps teach.
    """

    kind: Literal["balanced"] = "balanced"

    def __call__(self, schedule: Schedule, eta: float) -> Float[Tensor, "T"]:
        weights = 1 / step_sensitivity(schedule.alphas, schedule.next_alphas, eta)
        return weights / weights[: schedule.stochastic].mean()  # a step without noise weighs 0


Weighting = Annotated[SameWeights | BalancedWeights, Discriminator("kind")]

"""Shaping: (group, state) -> (Shaped, state)."""

import dataclasses
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift.functional import shaping
from drift.ranges import STRICT, Positive, Share, Weight
from drift.types import Group, State


@dataclasses.dataclass(frozen=True)
class Shaped:
    """The intrinsic reward of each sample and how much its advantage counts (lambda)."""

    intrinsic: Float[Tensor, "P G"]
    weight: float | Float[Tensor, "P G"]


@dataclass(frozen=True, config=STRICT)
class NoShaping:
    """No intrinsic reward."""

    kind: Literal["none"] = "none"
    weight = 0.0
    upper = float("inf")

    def __call__(self, group: Group, state: State) -> tuple[Shaped, State]:
        return Shaped(group.features.new_zeros(group.features.shape[:2]), 0.0), state


@dataclass(frozen=True, config=STRICT)
class DiversityShaping:
    """Intra-group diversity as potential-based, clipped reward (DRIFT, Section 5.3)."""

    kind: Literal["diversity"] = "diversity"
    weight: Weight = 0.5  # lambda
    upper: Positive = 1.0  # sigma
    gamma: Share = 1.0

    def __call__(self, group: Group, state: State) -> tuple[Shaped, State]:
        diversity = shaping.intra_group_diversity(group.features)
        telescoped = shaping.trajectory_intrinsic_reward(diversity, self.gamma, group.steps)
        return Shaped(shaping.clip_intrinsic(telescoped, self.upper), self.weight), state


Shaping = Annotated[NoShaping | DiversityShaping, Discriminator("kind")]

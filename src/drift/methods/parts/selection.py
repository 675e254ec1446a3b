"""Selection: (rewards "P C", keep, generator) -> indices "P keep"."""

from typing import Annotated, Literal

import torch
from jaxtyping import Int
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Generator, Tensor

from drift.errors import refuse
from drift.functional import selection
from drift.ranges import STRICT


@dataclass(frozen=True, config=STRICT)
class KeepAll:
    """No selection: the pool is the group."""

    kind: Literal["none"] = "none"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        P, C = rewards.shape
        refuse(keep != C, f"selection 'none' keeps all {C} candidates, not {keep}")
        return torch.arange(C, device=rewards.device).repeat(P, 1)


@dataclass(frozen=True, config=STRICT)
class RandomSubset:
    """Ours: the control that lets every method sample the same number of images."""

    kind: Literal["random"] = "random"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.random_subset(rewards, keep, generator)


@dataclass(frozen=True, config=STRICT)
class RewardConcentrated:
    """DRIFT, Section 5.1 and Appendix E."""

    kind: Literal["concentrated"] = "concentrated"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.reward_concentrated(rewards, keep)


@dataclass(frozen=True, config=STRICT)
class RewardContrasted:
    """The ablation's opposite (DRIFT, Appendix E)."""

    kind: Literal["contrasted"] = "contrasted"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.reward_contrasted(rewards, keep)


Selection = Annotated[
    KeepAll | RandomSubset | RewardConcentrated | RewardContrasted, Discriminator("kind")
]

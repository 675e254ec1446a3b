"""Timesteps: (prompts P, steps, epoch, generator) -> indices "P K" of the steps trained on.

With `ode_elsewhere` the other steps are taken without noise (MixGRPO): what makes the rewards of a
group differ, beside the start, is then what is trained.
"""

from typing import Annotated, Literal

from jaxtyping import Int
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift.functional import timesteps
from drift.ranges import STRICT, Count, SomeShare, Steps


@dataclass(frozen=True, config=STRICT)
class AllSteps:
    """Every step, as in the paper."""

    kind: Literal["all"] = "all"
    ode_elsewhere = False

    def __call__(self, prompts: int, steps: int, epoch: int, generator) -> Int[Tensor, "P K"]:
        return timesteps.all_steps(prompts, steps)


@dataclass(frozen=True, config=STRICT)
class FirstSteps:
    """The noisiest share of the steps (ours; the `timestep_fraction` of Flow-GRPO and DanceGRPO).

    What a picture shows is decided early, while the late steps, whose noise is small, have by far
    the largest gradients: where few images are sampled they drown the early ones.
    """

    kind: Literal["first"] = "first"
    fraction: SomeShare = 0.5
    ode_elsewhere: bool = False

    def __call__(self, prompts: int, steps: int, epoch: int, generator) -> Int[Tensor, "P K"]:
        return timesteps.first_steps(prompts, steps, self.fraction)


@dataclass(frozen=True, config=STRICT)
class RandomSteps:
    """A random share of the steps (ours; after DDPO's `timestep_fraction`)."""

    kind: Literal["random"] = "random"
    fraction: SomeShare = 0.5
    ode_elsewhere: bool = False

    def __call__(self, prompts: int, steps: int, epoch: int, generator) -> Int[Tensor, "P K"]:
        return timesteps.random_steps(prompts, steps, self.fraction, generator)


@dataclass(frozen=True, config=STRICT)
class WindowSteps:
    """A window of consecutive steps that slides over training (ours; after MixGRPO)."""

    kind: Literal["window"] = "window"
    size: Steps = 4
    every: Count = 25  # epochs before it moves on by a step
    ode_elsewhere: bool = False

    def __call__(self, prompts: int, steps: int, epoch: int, generator) -> Int[Tensor, "P K"]:
        return timesteps.window_steps(prompts, steps, self.size, epoch, self.every)


Timesteps = Annotated[AllSteps | FirstSteps | RandomSteps | WindowSteps, Discriminator("kind")]

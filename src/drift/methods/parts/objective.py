"""What is minimised, for each (sample, step) pair.

Surrogate: (log_prob "B", old_log_prob "B", advantages "B") -> loss "B".
Regulariser: (group, state) -> (weight of the penalty, one for all or "P G", state); its `penalty`
is (mean "B ...", reference mean "B ...", std "B", t "B" in [0, 1]) -> "B". One whose `weight` is 0
is never asked for a penalty, which costs a pass of the reference.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift import ranges
from drift.functional import kl, surrogate
from drift.ranges import STRICT, ClipRange
from drift.types import Group, State

Weight = float | Float[Tensor, "P G"]


@dataclass(frozen=True, config=STRICT)
class ClippedSurrogate:
    """The clipped ratio of PPO and GRPO (Section 3)."""

    kind: Literal["clipped"] = "clipped"
    clip_range: ClipRange = 1e-4  # Table 2; sensible for SD 1.5's 16,384 latent elements

    def __call__(self, log_prob, old_log_prob, advantage) -> Float[Tensor, "B"]:
        return surrogate.clipped_surrogate(log_prob, old_log_prob, advantage, self.clip_range)


@dataclass(frozen=True, config=STRICT)
class NoRegulariser:
    """No penalty (beta = 0)."""

    kind: Literal["none"] = "none"
    weight = 0.0

    def __call__(self, group: Group, state: State) -> tuple[Weight, State]:
        return self.weight, state

    def penalty(self, mean, reference_mean, std, t) -> Float[Tensor, "B"]:
        return mean.new_zeros(len(mean))


@dataclass(frozen=True, config=STRICT)
class ReferenceKL:
    """KL per step and latent element to the frozen base model."""

    kind: Literal["kl"] = "kl"
    weight: ranges.Weight = 0.001  # beta

    def __call__(self, group: Group, state: State) -> tuple[Weight, State]:
        return self.weight, state

    def penalty(self, mean, reference_mean, std, t) -> Float[Tensor, "B"]:
        return kl.gaussian_kl(mean, reference_mean, std)


Regulariser = Annotated[NoRegulariser | ReferenceKL, Discriminator("kind")]

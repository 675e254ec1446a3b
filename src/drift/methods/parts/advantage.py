"""Advantage: (group, shaped, state) -> (Advantages, state).

The intrinsic reward is always normalised by its own group.
"""

import dataclasses
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift.errors import refuse
from drift.functional import advantages
from drift.methods.parts.shaping import Shaped
from drift.ranges import STRICT, Positive, Several
from drift.types import Group, State


@dataclasses.dataclass(frozen=True)
class Advantages:
    """The advantage "P G" that is trained on, and its two components before they are joined."""

    total: Float[Tensor, "P G"]
    extrinsic: Float[Tensor, "P G"]
    intrinsic: Float[Tensor, "P G"]


@dataclass(frozen=True, config=STRICT)
class GroupAdvantage:
    """GRPO's advantage (Eq. 3), plus weight times that of the intrinsic reward (Eq. 14)."""

    kind: Literal["group"] = "group"
    coupled: bool = False  # Eq. 12, one advantage of the summed rewards, in place of Eq. 14

    def __call__(self, group: Group, shaped: Shaped, state: State) -> tuple[Advantages, State]:
        extrinsic = advantages.group_advantages(group.rewards)
        own = advantages.group_advantages(shaped.intrinsic)
        total = (
            advantages.group_advantages(group.rewards + shaped.weight * shaped.intrinsic)
            if self.coupled
            else advantages.combine(extrinsic, own, shaped.weight)
        )
        return Advantages(total, extrinsic, own), state


@dataclass(frozen=True, config=STRICT)
class BatchAdvantage:
    """DDPO's advantage: normalised over the whole batch, all prompts together."""

    kind: Literal["batch"] = "batch"
    limit: Positive = 5.0  # advantages are clipped to +-limit, as in DDPO's PyTorch code

    def __call__(self, group: Group, shaped: Shaped, state: State) -> tuple[Advantages, State]:
        extrinsic = advantages.batch_advantages(group.rewards).clamp(-self.limit, self.limit)
        own = advantages.group_advantages(shaped.intrinsic)
        return Advantages(advantages.combine(extrinsic, own, shaped.weight), extrinsic, own), state


@dataclass(frozen=True, config=STRICT)
class BufferedAdvantage:
    """DDPO's per-prompt form: normalised by the latest rewards of the same prompt.

    Defaults of DDPO's PyTorch code; a prompt with fewer than `min_count` rewards in its buffer is
    normalised by the batch. State: prompt -> its latest rewards.
    """

    kind: Literal["buffered"] = "buffered"
    buffer_size: Several = 16
    min_count: Several = 16
    limit: Positive = 5.0

    def __post_init__(self) -> None:
        refuse(
            not 2 <= self.min_count <= self.buffer_size,
            f"min_count ({self.min_count}) must lie in [2, buffer_size ({self.buffer_size})]",
        )

    def __call__(self, group: Group, shaped: Shaped, state: State) -> tuple[Advantages, State]:
        latest = dict(state)
        for prompt, row in zip(group.prompts, group.rewards.tolist(), strict=True):
            latest[prompt] = [*latest.get(prompt, []), *row][-self.buffer_size :]
        buffers = [torch.tensor(latest[prompt]) for prompt in group.prompts]
        extrinsic = advantages.buffered_advantages(group.rewards, buffers, self.min_count)
        extrinsic = extrinsic.clamp(-self.limit, self.limit)
        own = advantages.group_advantages(shaped.intrinsic)
        return Advantages(advantages.combine(extrinsic, own, shaped.weight), extrinsic, own), latest


Advantage = Annotated[GroupAdvantage | BatchAdvantage | BufferedAdvantage, Discriminator("kind")]

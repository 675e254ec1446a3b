"""Conditioning: (conditioned of B, t "B" in [0, 1], seeds, steps) -> conditioned of B.

The prompt's branch is changed, never the unconditional one. Seed and step fix the noise, so that a
replay sees exactly what the rollout was sampled under.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Discriminator
from pydantic.dataclasses import dataclass
from torch import Tensor

from drift.errors import refuse
from drift.functional import conditioning, noise
from drift.ranges import STRICT, Share, Time, Weight
from drift.types import Conditioned


@dataclass(frozen=True, config=STRICT)
class CleanPrompt:
    """The prompt as it is."""

    kind: Literal["clean"] = "clean"

    def __call__(self, conditioned: Conditioned, t, seeds, steps) -> Conditioned:
        return conditioned

    def signal_share(self, conditioned: Conditioned, t) -> Float[Tensor, "T"]:
        return torch.ones_like(t)

    def in_training(self) -> "CleanPrompt":
        return self

    def at_test(self) -> "CleanPrompt":
        return self


@dataclass(frozen=True, config=STRICT)
class NoisedPrompt:
    """Noise-conditioned prompting (DRIFT, Section 5.2; defaults of Table 2)."""

    kind: Literal["noised"] = "noised"
    scale: Weight = 0.05  # s
    tau1: Time = 0.4
    tau2: Time = 1.0
    mix: Share = 1.0  # psi
    train: bool = True  # in rollouts and their replay
    test: bool = False  # when a checkpoint is evaluated or draws

    def __post_init__(self) -> None:
        refuse(self.tau1 >= self.tau2, f"tau1 ({self.tau1}) must be below tau2 ({self.tau2})")

    def __call__(self, conditioned: Conditioned, t, seeds, steps) -> Conditioned:
        clean = conditioned.prompt.tokens
        drawn = noise.step_noise(seeds, steps, tuple(clean.shape[1:])).to(clean)
        noised, settings = clean.clone(), (self.scale, self.tau1, self.tau2, self.mix)
        for place in conditioned.prompt.blocks:
            own = (slice(None), *place)
            noised[own] = conditioning.perturb_embedding(clean[own], t, drawn[own], *settings)
        return replace(conditioned, prompt=replace(conditioned.prompt, tokens=noised))

    def signal_share(self, conditioned: Conditioned, t) -> Float[Tensor, "T"]:
        tokens, settings = conditioned.prompt.tokens, (self.scale, self.tau1, self.tau2)
        shares = [
            conditioning.signal_share(tokens[(slice(None), *place)], t, *settings)
            for place in conditioned.prompt.blocks
        ]
        return torch.stack(shares).mean(0)

    def in_training(self) -> "CleanPrompt | NoisedPrompt":
        return self if self.train else CleanPrompt()

    def at_test(self) -> "CleanPrompt | NoisedPrompt":
        return self if self.test else CleanPrompt()


Conditioning = Annotated[CleanPrompt | NoisedPrompt, Discriminator("kind")]

"""The slots of a method, each a frozen dataclass over `functional/`.

`kind` names a part in recipes. Every part of a slot takes the same arguments; the plain one of each
slot does nothing, so the training loop never asks which method it runs.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from jaxtyping import Float, Int
from pydantic import Discriminator
from torch import Generator, Tensor

from drift.functional import advantages, conditioning, kl, noise, selection, shaping, surrogate


def refuse(condition: bool, message: str) -> None:
    if condition:
        raise ValueError(message)


# Conditioning: (prompt_embeds "B L D", t "B" in [0, 1], seeds, steps) -> "B L D". Seed and step fix
# the noise, so that a replay sees exactly what the rollout was sampled under.


@dataclass(frozen=True)
class CleanPrompt:
    """The prompt as it is."""

    kind: Literal["clean"] = "clean"

    def __call__(self, prompt_embeds, t, seeds, steps) -> Float[Tensor, "B L D"]:
        return prompt_embeds


@dataclass(frozen=True)
class NoisedPrompt:
    """Noise-conditioned prompting (DRIFT, Section 5.2; defaults of Table 2)."""

    kind: Literal["noised"] = "noised"
    scale: float = 0.05  # s
    tau1: float = 0.4
    tau2: float = 1.0
    mix: float = 1.0  # psi

    def __post_init__(self) -> None:
        refuse(self.tau1 >= self.tau2, f"tau1 ({self.tau1}) must be below tau2 ({self.tau2})")
        refuse(self.scale < 0, f"scale must not be negative, got {self.scale}")

    def __call__(self, prompt_embeds, t, seeds, steps) -> Float[Tensor, "B L D"]:
        drawn = noise.step_noise(seeds, steps, tuple(prompt_embeds.shape[1:])).to(prompt_embeds)
        return conditioning.perturb_embedding(
            prompt_embeds, t, drawn, self.scale, self.tau1, self.tau2, self.mix
        )


# Selection: (rewards "P C", keep, generator) -> indices "P keep"


@dataclass(frozen=True)
class RandomSubset:
    """Ours: the control that lets every method sample the same number of images."""

    kind: Literal["random"] = "random"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.random_subset(rewards, keep, generator)


@dataclass(frozen=True)
class RewardConcentrated:
    """DRIFT, Section 5.1 and Appendix E."""

    kind: Literal["concentrated"] = "concentrated"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.reward_concentrated(rewards, keep)


@dataclass(frozen=True)
class RewardContrasted:
    """The ablation's opposite (DRIFT, Appendix E)."""

    kind: Literal["contrasted"] = "contrasted"

    def __call__(self, rewards, keep: int, generator: Generator) -> Int[Tensor, "P G"]:
        return selection.reward_contrasted(rewards, keep)


# Shaping: (features "P G D", steps) -> intrinsic reward "P G"


@dataclass(frozen=True)
class NoShaping:
    """No intrinsic reward."""

    kind: Literal["none"] = "none"
    weight = 0.0
    upper = float("inf")

    def __call__(self, features, steps: int) -> Float[Tensor, "P G"]:
        return features.new_zeros(features.shape[:2])


@dataclass(frozen=True)
class DiversityShaping:
    """Intra-group diversity as potential-based, clipped reward (DRIFT, Section 5.3)."""

    kind: Literal["diversity"] = "diversity"
    weight: float = 0.5  # lambda
    upper: float = 1.0  # sigma
    gamma: float = 1.0

    def __post_init__(self) -> None:
        refuse(self.weight < 0, f"weight (lambda) must not be negative, got {self.weight}")
        refuse(self.upper <= 0, f"upper (sigma) must be positive, got {self.upper}")

    def __call__(self, features, steps: int) -> Float[Tensor, "P G"]:
        diversity = shaping.intra_group_diversity(features)
        telescoped = shaping.trajectory_intrinsic_reward(diversity, self.gamma, steps)
        return shaping.clip_intrinsic(telescoped, self.upper)


# Advantage: (rewards "P G", intrinsic "P G", weight) -> "P G"


@dataclass(frozen=True)
class GroupAdvantage:
    """GRPO's advantage (Eq. 3), plus weight times that of the intrinsic reward (Eq. 14)."""

    kind: Literal["group"] = "group"

    def __call__(self, rewards, intrinsic, weight: float) -> Float[Tensor, "P G"]:
        extrinsic = advantages.group_advantages(rewards)
        return advantages.combine(extrinsic, advantages.group_advantages(intrinsic), weight)


# Surrogate: (log_prob "B", old_log_prob "B", advantages "B") -> loss "B"


@dataclass(frozen=True)
class ClippedSurrogate:
    """The clipped ratio of PPO and GRPO (Section 3)."""

    kind: Literal["clipped"] = "clipped"
    clip_range: float = 1e-4  # Table 2; sensible for SD 1.5's 16,384 latent elements

    def __post_init__(self) -> None:
        refuse(not 0 < self.clip_range < 1, f"clip_range must lie in (0, 1), got {self.clip_range}")

    def __call__(self, log_prob, old_log_prob, advantage) -> Float[Tensor, "B"]:
        return surrogate.clipped_surrogate(log_prob, old_log_prob, advantage, self.clip_range)


# Regulariser: (mean "B ...", reference mean "B ...", std "B") -> penalty "B"


@dataclass(frozen=True)
class NoRegulariser:
    """No penalty (beta = 0)."""

    kind: Literal["none"] = "none"
    weight = 0.0


@dataclass(frozen=True)
class ReferenceKL:
    """KL per step and latent element to the frozen base model (adapter switched off)."""

    kind: Literal["kl"] = "kl"
    weight: float = 0.001  # beta

    def __post_init__(self) -> None:
        refuse(self.weight < 0, f"weight (beta) must not be negative, got {self.weight}")

    def __call__(self, mean, reference_mean, std) -> Float[Tensor, "B"]:
        return kl.gaussian_kl(mean, reference_mean, std)


# A recipe names the part by its `kind`.
Conditioning = Annotated[CleanPrompt | NoisedPrompt, Discriminator("kind")]
Selection = Annotated[RandomSubset | RewardConcentrated | RewardContrasted, Discriminator("kind")]
Shaping = Annotated[NoShaping | DiversityShaping, Discriminator("kind")]
Regulariser = Annotated[NoRegulariser | ReferenceKL, Discriminator("kind")]


@dataclass(frozen=True)
class Method:
    """A method is data: one part for each slot."""

    conditioning: Conditioning = field(default_factory=CleanPrompt)
    selection: Selection = field(default_factory=RandomSubset)
    shaping: Shaping = field(default_factory=NoShaping)
    advantage: GroupAdvantage = field(default_factory=GroupAdvantage)
    surrogate: ClippedSurrogate = field(default_factory=ClippedSurrogate)
    regulariser: Regulariser = field(default_factory=NoRegulariser)

"""What travels between the rooms, and the three Protocols where foreign weights meet our code.

Axis legend, used in every signature:
    P prompts        C candidates of a prompt      G kept group (G <= C)     N images, any order
    B batch rows     T denoising steps             D feature width           L tokens
    H W height and width; latents are "B c h w" with c latent channels

Way of the data: prompts -> rollout -> scoring -> selection -> shaping -> advantages -> update.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Module, Parameter

from drift.errors import refuse
from drift.functional.dynamics import PerSample


@runtime_checkable
class Schedule(Protocol):
    """The times of a trajectory, noisiest first, and the Gaussian step of a policy at each.

    On the model's device, in float32. `noise_level` is what scales a step's noise: DDIM's eta, a
    flow's a.
    """

    @property
    def timesteps(self) -> Int[Tensor, "T"] | Float[Tensor, "T"]: ...  # what the network is told

    @property
    def fractions(self) -> Float[Tensor, "T"]: ...  # in [0, 1], 1 = pure noise

    def step(
        self,
        sample: Float[Tensor, "B *latent"],
        noise_pred: Float[Tensor, "B *latent"],
        index: Int[Tensor, "B"] | int,
        noise_level: float | PerSample,
    ) -> tuple[Float[Tensor, "B *latent"], PerSample]:
        """Mean and std of the state after step `index`, one for all samples or each its own.

        `noise_pred` is the network's output, of whatever kind. At noise level 0 std is 0.
        """
        ...

    def noisy(self, noise_level: float) -> Bool[Tensor, "T"]:
        """Which steps draw noise, and so are actions of a policy."""
        ...

    def sensitivity(self, noise_level: float) -> Float[Tensor, "T"]:
        """How many std a step's mean moves when the network's velocity moves by 1."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class StepPlan:
    """What each step of a prompt's trajectories is; drawn before they are, for whole groups.

    A group's rewards are comparable only if all its trajectories were drawn alike.
    """

    noise_level: Float[Tensor, "P T"]  # DDIM's eta, a flow's a; 0 is a deterministic step
    train: Bool[Tensor, "P T"]

    def __post_init__(self) -> None:
        deterministic = self.train & (self.noise_level <= 0)
        refuse(bool(deterministic.any()), "a step without noise is no action to train on")

    @classmethod
    def untrained(cls, prompts: int, steps: int, noise_level: float) -> "StepPlan":
        """Every step alike, none trained on: for pictures that are only looked at."""
        levels = torch.full((prompts, steps), float(noise_level))
        return cls(levels, torch.zeros_like(levels, dtype=torch.bool))


@dataclass(frozen=True)
class TextEmbeds:
    """What a network is told of B prompts.

    `tokens` is what prompt noise perturbs; `extra` goes along as it is: the pooled embeddings of
    SDXL, SD 3 and FLUX. `blocks` are the places (of L, of D) of each text encoder's tokens where
    there are several, or padding beside them; prompt noise takes each by its own scale.
    """

    tokens: Float[Tensor, "B L D"]
    extra: dict[str, Float[Tensor, "B ..."]] = field(default_factory=dict)
    blocks: tuple[tuple[slice, slice], ...] = ((slice(None), slice(None)),)

    def __len__(self) -> int:
        return len(self.tokens)

    def each(self, change: Callable[[Tensor], Tensor]) -> "TextEmbeds":
        """The same change to every tensor: a choice of rows, a move to a device."""
        extra = {k: change(v) for k, v in self.extra.items()}
        return TextEmbeds(change(self.tokens), extra, self.blocks)

    def __getitem__(self, rows) -> "TextEmbeds":
        return self.each(lambda tensor: tensor[rows])


@dataclass(frozen=True)
class Conditioned:
    """Both branches of classifier-free guidance, for B prompts; they travel together."""

    prompt: TextEmbeds
    negative: TextEmbeds  # the unconditional branch: of the negative prompt, "" by default

    def __len__(self) -> int:
        return len(self.prompt)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Conditioned":
        return Conditioned(self.prompt.each(change), self.negative.each(change))

    def __getitem__(self, rows) -> "Conditioned":
        return self.each(lambda tensor: tensor[rows])


# What a slot remembers from epoch to epoch: JSON-able, passed in and returned, checkpointed.
State = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """What the slots of a method see of an epoch's kept samples, a row a prompt."""

    prompts: list[str]
    rewards: Float[Tensor, "P G"]
    features: Float[Tensor, "P G D"]
    steps: int  # T
    epoch: int  # from 1


@dataclass(frozen=True)
class Seen:
    """What a text encoder sees of a prompt: its tokens, and how many more are cut off."""

    tokens: tuple[int, ...]
    lost: int


@dataclass(frozen=True)
class Rollout:
    """P prompts with C sampled trajectories each; filled by `rollout`, narrowed by selection.

    Kept on the CPU: the paper's 256 trajectories are 1.7 GB.
    `latents[:, :, k]` is the state before step k and `latents[:, :, k + 1]` the action taken there.
    `seeds` name each trajectory's noise, so that its conditioning can be replayed exactly.
    """

    prompts: list[str]
    conditioned: Conditioned  # "P ..."
    plan: StepPlan
    seeds: Int[Tensor, "P C"]
    log_probs: Float[Tensor, "P C T"]
    latents: Float[Tensor, "P C T+1 c h w"]
    images: Float[Tensor, "P C 3 H W"]
    features: Float[Tensor, "P C D"] | None = None  # the policy's own, where they are asked for

    def keep(self, chosen: Int[Tensor, "P G"]) -> "Rollout":
        """The same prompts with only the chosen candidates."""
        rows = chosen.new_tensor(range(len(chosen)))[:, None]
        of_each = ("seeds", "log_probs", "latents", "images", "features")
        known = {name: getattr(self, name) for name in of_each}
        return replace(self, **{n: v[rows, chosen] for n, v in known.items() if v is not None})


@runtime_checkable
class PolicyModel(Protocol):
    """A text-to-image diffusion model under fine-tuning. It never runs the denoising loop.

    What it predicts is what its schedule's `step` takes, be it noise or velocity. Latents and
    predictions are float32 whatever the network computes in.
    """

    @property
    def device(self) -> torch.device: ...

    # Of a picture of (height, width) pixels; None is the size that the model was made for.
    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, ...]: ...

    @property
    def network(self) -> Module: ...  # the part that is fine-tuned: UNet or transformer

    def schedule(self, steps: int, size: tuple[int, int] | None = None) -> Schedule:
        """Of pictures of `size` (height, width), or of the model's own: some flows heed it."""
        ...

    def check_guidance(self, guidance_scale: float) -> None: ...  # refuse what it was not made for

    def remarks(self, guidance_scale: float) -> list[str]: ...  # what a run should be told of it

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned: ...

    def see(self, prompts: Sequence[str]) -> list[Seen]: ...  # what it takes in of each prompt

    def predict(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, "B"] | Float[Tensor, "B"],
        conditioned: Conditioned,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]: ...

    # Inside it, every `predict` adds its rows' features "B D" to the list, float32: a hidden
    # state of the network's middle, under the prompt, in about as many numbers at any picture size.
    def capture_features(self) -> AbstractContextManager[list[Tensor]]: ...

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]: ...

    def add_adapter(  # a LoRA is trained ...
        self, rank: int, alpha: int | float, target_modules: Sequence[str], seed: int
    ) -> None: ...

    def train_adapter(  # ... or the one that it was loaded with, if None of these contradicts it
        self, rank: int | None, alpha: int | float | None, target_modules: Sequence[str] | None
    ) -> None: ...

    def unfreeze(self) -> None: ...  # ... or all of the network

    def trainable_parameters(self) -> list[Parameter]: ...

    def save_weights(self, folder: Path) -> None: ...  # what is trained, in diffusers' own files

    def save_pipeline(self, folder: Path) -> None: ...  # all of it, as a diffusers folder

    def load_weights(self, folder: Path) -> None: ...

    # Inside it, the frozen policy that training began with.
    def reference(self) -> AbstractContextManager[None]: ...


Fields = Mapping[str, Mapping[str, Any]]  # prompt -> what its line of a .jsonl file says besides


@runtime_checkable
class Reward(Protocol):
    """Scores image i against prompt i. Images are in [0, 1]; larger is better.

    One with a true attribute `per_group` is called with all images of a single prompt at a time.
    """

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]: ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Features in which distance means perceptual difference. Images are in [0, 1]."""

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]: ...

"""What travels between the rooms, and the three Protocols where foreign weights meet our code.

Axis legend, used in every signature:
    P prompts        C candidates of a prompt      G kept group (G <= C)     N images, any order
    B batch rows     T denoising steps             D feature width           L tokens
    H W height and width; latents are "B c h w" with c latent channels

Way of the data: prompts -> rollout -> scoring -> selection -> shaping -> advantages -> update.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module, Parameter

from drift.functional.dynamics import ddim_step


@dataclass(frozen=True)
class Schedule:
    """DDIM's discrete times, noisiest first, in float32, on the model's device.

    `alphas[k]` is the cumulative alpha at `timesteps[k]`, `next_alphas[k]` the one stepped to (the
    scheduler's final alpha at the end). `fractions` are times in [0, 1], 1 = pure noise.
    """

    timesteps: Int[Tensor, "T"]
    alphas: Float[Tensor, "T"]
    next_alphas: Float[Tensor, "T"]
    fractions: Float[Tensor, "T"]

    def step(
        self,
        sample: Float[Tensor, "B *latent"],
        noise_pred: Float[Tensor, "B *latent"],
        index: Int[Tensor, "B"] | int,
        eta: float,
    ) -> tuple[Float[Tensor, "B *latent"], Float[Tensor, "B"] | Float[Tensor, ""]]:
        """Mean and std of the state after step `index`, one for all samples or each its own."""
        return ddim_step(sample, noise_pred, self.alphas[index], self.next_alphas[index], eta)

    def to(self, device: torch.device) -> "Schedule":
        return Schedule(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> int:
        """How many steps, from the first, draw noise and so are actions of a policy.

        All of SD 1.5's (`set_alpha_to_one=False`, `steps_offset=1`). A last step to the clean
        image, or from time 0 to itself, is deterministic: it is taken, and never trained on.
        """
        return int(((self.alphas < self.next_alphas) & (self.next_alphas < 1)).sum())


@dataclass(frozen=True)
class TextEmbeds:
    """What a policy is told of B prompts.

    `tokens` is what prompt noise perturbs; `extra` goes along as it is: the pooled embeddings and
    time ids of SDXL, the pooled ones of SD 3 and FLUX.
    """

    tokens: Float[Tensor, "B L D"]
    extra: dict[str, Float[Tensor, "B ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def each(self, change: Callable[[Tensor], Tensor]) -> "TextEmbeds":
        """The same change to every tensor: a choice of rows, a move to a device."""
        return TextEmbeds(change(self.tokens), {k: change(v) for k, v in self.extra.items()})

    def __getitem__(self, rows) -> "TextEmbeds":
        return self.each(lambda tensor: tensor[rows])


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
    prompt_embeds: TextEmbeds
    seeds: Int[Tensor, "P C"]
    log_probs: Float[Tensor, "P C T"]
    latents: Float[Tensor, "P C T+1 c h w"]
    images: Float[Tensor, "P C 3 H W"]
    features: Float[Tensor, "P C D"] | None = None  # the policy's own, where they are asked for

    def keep(self, chosen: Int[Tensor, "P G"]) -> "Rollout":
        """The same prompts with only the chosen candidates."""
        rows = chosen.new_tensor(range(len(chosen)))[:, None]
        return Rollout(
            self.prompts,
            self.prompt_embeds,
            self.seeds[rows, chosen],
            self.log_probs[rows, chosen],
            self.latents[rows, chosen],
            self.images[rows, chosen],
            None if self.features is None else self.features[rows, chosen],
        )


@runtime_checkable
class PolicyModel(Protocol):
    """A text-to-image diffusion model under fine-tuning. It never runs the denoising loop.

    What it predicts is what its schedule's `step` takes: the noise, under DDIM. Latents and
    predictions are float32 whatever the network computes in.
    """

    @property
    def device(self) -> torch.device: ...

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def network(self) -> Module: ...  # the part that is fine-tuned: UNet or transformer

    def schedule(self, steps: int) -> Schedule: ...

    def encode_prompts(self, prompts: Sequence[str]) -> TextEmbeds: ...

    def see(self, prompts: Sequence[str]) -> list[Seen]: ...  # what it takes in of each prompt

    def predict_noise(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, "B"],
        prompt_embeds: TextEmbeds,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]: ...

    # Inside it, every `predict_noise` adds its rows' features "B D" to the list, float32: a hidden
    # state of the network's middle, under the prompt, in about as many numbers at any picture size.
    def capture_features(self) -> AbstractContextManager[list[Tensor]]: ...

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]: ...

    def add_adapter(  # a LoRA is trained ...
        self, rank: int, alpha: int, target_modules: Sequence[str], seed: int
    ) -> None: ...

    def unfreeze(self) -> None: ...  # ... or all of the network

    def trainable_parameters(self) -> list[Parameter]: ...

    def save_weights(self, folder: Path) -> None: ...  # what is trained, in diffusers' own files

    def load_weights(self, folder: Path) -> None: ...

    def reference(self) -> AbstractContextManager[None]: ...  # inside it, the frozen base model


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

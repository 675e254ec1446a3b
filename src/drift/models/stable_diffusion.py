"""Stable Diffusion (v1.5, v2.1, the Menagerie's model): a UNet with cross-attention.

Trained is a LoRA on the UNet's attention, or the whole UNet; text encoder and autoencoder stay
frozen.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
)
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from drift.errors import UserError
from drift.models.base import DiffusersPolicy, begin
from drift.models.pipelines import PredictionType, open_pipeline, read_unet
from drift.models.schedules import DDIMSchedule, ddim_schedule
from drift.types import TextEmbeds


class StableDiffusion(DiffusersPolicy):
    """A PolicyModel over a diffusers StableDiffusionPipeline."""

    pipe: StableDiffusionPipeline
    part = "unet"

    def __init__(self, pipe: DiffusionPipeline, *args: Any, **settings: Any):
        super().__init__(pipe, *args, **settings)
        self.published = self.pipe.scheduler
        kind, config = type(self.published).__name__, self.published.config
        if "beta_schedule" not in config:
            raise UserError(
                f"model.name: its scheduler is {kind}, which has no noise schedule (beta_schedule) "
                "that DDIM could step on; this family's are DDIM, PNDM, Euler, DPM and the like"
            )
        if kind == "LCMScheduler" or self.pipe.unet.config.get("time_cond_proj_dim"):
            self.unguided = "a latent consistency model (LCM) has guidance in its weights"
        self.pipe.scheduler = DDIMScheduler.from_config(config)

    def remarks(self, guidance_scale: float) -> list[str]:
        """Turbo models are published with this sampler; but so may others be."""
        kind, config = type(self.published).__name__, self.published.config
        turbo = kind.startswith("EulerAncestral") and config.get("timestep_spacing") == "trailing"
        if guidance_scale == 1 or not turbo:
            return []
        return [
            f"model.name: its sampler is {kind} with trailing steps, as a Turbo model's; such a "
            "one wants sampling.guidance_scale=1"
        ]

    def schedule(self, steps: int, size: tuple[int, int] | None = None) -> DDIMSchedule:
        return ddim_schedule(self.pipe.scheduler, steps, self.device)

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
        """The text encoder's last hidden states."""
        tokens = self.pipe.tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        encoded = self.pipe.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return TextEmbeds(encoded.float())

    def _compute(self, x: Tensor, t: Tensor, told: TextEmbeds, guidance_scale: float) -> Tensor:
        return self.pipe.unet(x, t, told.tokens, return_dict=False)[0]

    def _middle(self) -> Module:
        if self.pipe.unet.mid_block is None:
            raise UserError("encoder: 'policy' needs a UNet with a middle block; this one has none")
        return self.pipe.unet.mid_block

    def _picture(self, output: Any, sides: Sequence[int]) -> Float[Tensor, "B C h w"]:
        return output

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], all at once."""
        return self._decoded(latents / self.pipe.vae.config.scaling_factor)


def load(
    source: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prediction_type: PredictionType = "auto",
    **settings,
) -> StableDiffusion:
    """The model in a diffusers folder or a .safetensors file; for `settings` see `begin`."""
    opened = partial(open_pipeline, source, prediction_type=prediction_type)
    return begin(StableDiffusion, opened, partial(read_unet, source), dtype=dtype, **settings)

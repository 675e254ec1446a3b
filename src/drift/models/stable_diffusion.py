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
    UNet2DConditionModel,
)
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from drift.errors import UserError
from drift.models.adapters import Adapter, fuse, fuse_into_unet, read_adapter
from drift.models.base import DiffusersPolicy, branches
from drift.models.pipelines import PredictionType, cast, open_pipeline, read_unet
from drift.models.schedules import DDIMSchedule, ddim_schedule
from drift.types import Conditioned, TextEmbeds


class StableDiffusion(DiffusersPolicy):
    """A PolicyModel over a diffusers StableDiffusionPipeline."""

    pipe: StableDiffusionPipeline
    part = "unet"

    def __init__(self, pipe: DiffusionPipeline, *args: Any, **settings: Any):
        super().__init__(pipe, *args, **settings)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)

    def schedule(self, steps: int, size: tuple[int, int] | None = None) -> DDIMSchedule:
        return ddim_schedule(self.pipe.scheduler, steps, self.device)

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned:
        """The text encoder's last hidden states, `negative`'s for every row."""
        return branches(self._encode_text(prompts), self._encode_text([negative]))

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
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
    adapter: Path | None = None,
    fused: bool = False,
    **settings,
) -> StableDiffusion:
    """The model in a diffusers folder or a .safetensors file.

    An `adapter` is `fused` into it, in float32, or lies on it to go on in.
    """
    start = read_adapter(adapter) if adapter else None
    base = start if fused else None  # what is part of the base
    pipe = open_pipeline(source, torch.float32 if base else dtype, prediction_type)
    if base:
        fuse(base, pipe)
        for network in (pipe.unet, pipe.vae, pipe.text_encoder):
            cast(network, dtype)
    model = StableDiffusion(pipe, dtype=dtype, read_base=partial(_read, source, base), **settings)
    if start and not base:
        model.begin_with(start)
    return model


def _read(source: Path, fused: Adapter | None) -> UNet2DConditionModel:
    unet = read_unet(source)
    return fuse_into_unet(fused, unet) if fused else unet

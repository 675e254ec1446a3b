"""FLUX.1: a flow transformer of 12 B parameters that is told its guidance.

A CLIP gives one vector, a T5 the tokens. Latents are kept as pictures of 16 channels, and packed by
fours for the network. FLUX.1-dev takes the guidance scale as an input and has no unconditional
branch; schnell takes none. In half precision the network rounds its times as diffusers' does.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from drift.models.base import begin
from drift.models.flow import FlowPolicy
from drift.models.pipelines import absent, read_folder, read_network
from drift.types import TextEmbeds

OPTIONAL = ("image_encoder", "feature_extractor")  # for pictures as prompts
SIDE = 2  # of the latents that are packed into one token


class Flux(FlowPolicy):
    """A PolicyModel over a diffusers FluxPipeline."""

    pipe: FluxPipeline
    part = "transformer"
    multiple = SIDE
    most_tokens = 512
    usual_shift = "once"

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        if not self.is_told_guidance:
            self.unguided = "FLUX.1-schnell takes none (its guidance_embeds is false)"

    @property
    def channels(self) -> int:
        return self.network.config.in_channels // SIDE**2

    @property
    def side(self) -> int:
        return self.pipe.vae.config.sample_size // self.pipe.vae_scale_factor

    @property
    def is_told_guidance(self) -> bool:
        return self.network.config.guidance_embeds

    def _mu(self, size: tuple[int, int] | None) -> float:
        """The more tokens, the more noise: 0.5 at 256 tokens, 1.15 at 4,096."""
        _, height, width = self.latent_shape(size)
        known = self.pipe.scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return calculate_shift(height * width // SIDE**2, *(known[name] for name in names))

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
        """T5's tokens; "pooled" is CLIP's vector."""
        length = min(self.most_tokens, self.pipe.tokenizer_2.model_max_length)
        tokens, pooled, _ = self.pipe.encode_prompt(
            list(texts), None, device=self.device, max_sequence_length=length
        )
        return TextEmbeds(tokens.float(), {"pooled": pooled.float()})

    def _compute(self, x: Tensor, t: Tensor, told: TextEmbeds, guidance_scale: float) -> Tensor:
        B, c, height, width = x.shape
        h, w = height // SIDE, width // SIDE
        where = self.pipe._prepare_latent_image_ids(B, h, w, self.device, torch.float32)
        guidance = torch.full([B], guidance_scale, device=self.device)
        packed = self.network(
            hidden_states=self.pipe._pack_latents(x, B, c, height, width),
            timestep=t / 1000,
            guidance=guidance if self.is_told_guidance else None,
            encoder_hidden_states=told.tokens,
            pooled_projections=told.extra["pooled"],
            txt_ids=torch.zeros(told.tokens.shape[1], 3, device=self.device),
            img_ids=where,
            return_dict=False,
        )[0]
        cells = packed.unflatten(1, (h, w)).unflatten(-1, (c, SIDE, SIDE))
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def _middle(self) -> Module:
        blocks = [*self.network.transformer_blocks, *self.network.single_transformer_blocks]
        return blocks[len(blocks) // 2]

    def _picture(self, output: Any, sides: Sequence[int]) -> Float[Tensor, "B C h w"]:
        """Of a block's tokens the picture's, which come after the text's."""
        return output[1].mT.unflatten(-1, [side // SIDE for side in sides])


def load(source: Path, *, dtype: torch.dtype = torch.float32, **settings) -> Flux:
    """The model in a diffusers folder; for `settings` see `begin`."""
    opened = partial(read_folder, FluxPipeline, source, parts=absent(source, OPTIONAL))
    again = partial(read_network, FluxTransformer2DModel, source, "transformer")
    return begin(Flux, opened, again, dtype=dtype, **settings)

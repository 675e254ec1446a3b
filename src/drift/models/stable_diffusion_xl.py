"""Stable Diffusion XL: two text encoders, and a UNet that is told the picture's size.

It predicts noise on SD 1.5's schedule; trained is what is trained of SD 1.5.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor

from drift.models.base import begin
from drift.models.pipelines import absent, from_file, read_folder, read_unet
from drift.models.stable_diffusion import StableDiffusion
from drift.types import Conditioned, TextEmbeds

OPTIONAL = ("image_encoder", "feature_extractor")  # for pictures as prompts


class StableDiffusionXL(StableDiffusion):
    """A PolicyModel over a diffusers StableDiffusionXLPipeline."""

    pipe: StableDiffusionXLPipeline

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned:
        """Without a negative prompt the unconditional branch is zeros, if it was trained so.

        (`force_zeros_for_empty_prompt`.)
        """
        told = super().encode(prompts, negative)
        if negative or not self.pipe.config.force_zeros_for_empty_prompt:
            return told
        return Conditioned(told.prompt, told.negative.each(torch.zeros_like))

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
        """Both encoders' penultimate states side by side; "pooled" is the second's."""
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), do_classifier_free_guidance=False, device=self.device
        )
        first = self.pipe.text_encoder.config.hidden_size
        blocks = ((slice(None), slice(first)), (slice(None), slice(first, None)))
        return TextEmbeds(tokens.float(), {"pooled": pooled.float()}, blocks)

    def _compute(self, x: Tensor, t: Tensor, told: TextEmbeds, guidance_scale: float) -> Tensor:
        """Told as well: the picture's size, that nothing was cropped, and the size again."""
        height, width = (self.pipe.vae_scale_factor * side for side in x.shape[-2:])
        time_ids = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)
        added = {"text_embeds": told.extra["pooled"], "time_ids": time_ids}
        return self.pipe.unet(x, t, told.tokens, added_cond_kwargs=added, return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], all at once; in float32 where the autoencoder overflows in half."""
        vae = self.pipe.vae
        if vae.config.force_upcast and vae.dtype == torch.float16:
            vae.to(torch.float32)
        return super().decode(latents)


def load(source: Path, *, dtype: torch.dtype = torch.float32, **settings) -> StableDiffusionXL:
    """The model in a diffusers folder or a .safetensors file; for `settings` see `begin`."""
    opened = partial(from_file, source)
    if source.is_dir():
        parts = absent(source, OPTIONAL)
        opened = partial(read_folder, StableDiffusionXLPipeline, source, parts=parts)
    return begin(StableDiffusionXL, opened, partial(read_unet, source), dtype=dtype, **settings)

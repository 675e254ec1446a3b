"""Stable Diffusion 3 and 3.5 (and the Menagerie's flow model): a flow transformer, MMDiT.

Two CLIP text encoders, and a T5 that may be absent. Trained is a LoRA on the transformer's
attention, or the whole transformer.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from drift.models.base import begin
from drift.models.flow import FlowPolicy
from drift.models.pipelines import absent, read_folder, read_network
from drift.types import TextEmbeds

# Without T5 its tokens are zeros. The last two are for pictures as prompts.
OPTIONAL = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")


class StableDiffusion3(FlowPolicy):
    """A PolicyModel over a diffusers StableDiffusion3Pipeline."""

    pipe: StableDiffusion3Pipeline
    part = "transformer"

    usual_shift = "twice"  # diffusers shifts sigmas that it has shifted already

    @property
    def multiple(self) -> int:
        return self.network.config.patch_size

    def remarks(self, guidance_scale: float) -> list[str]:
        if self.pipe.text_encoder_3 is not None:
            return []
        return [
            "model.name: without a third text encoder (T5) its tokens are zeros, as in diffusers"
        ]

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
        """Tokens of the CLIPs, padded with zeros, then T5's; "pooled" are the CLIPs' own."""
        tokens, _, together, _ = self.pipe.encode_prompt(
            list(texts), None, None, do_classifier_free_guidance=False, device=self.device
        )
        return TextEmbeds(tokens.float(), {"pooled": together.float()}, self._blocks())

    def _blocks(self) -> tuple[tuple[slice, slice], ...]:
        """Both CLIPs' tokens side by side, the zeros beside them left out; then T5's, if any."""
        one, two = self.pipe.text_encoder, self.pipe.text_encoder_2
        ends = (0, one.config.hidden_size, one.config.hidden_size + two.config.hidden_size)
        length = self.pipe.tokenizer_max_length
        blocks = [(slice(length), slice(*edges)) for edges in pairwise(ends)]
        if self.pipe.text_encoder_3 is not None:
            blocks.append((slice(length, None), slice(None)))
        return tuple(blocks)

    def _compute(self, x: Tensor, t: Tensor, told: TextEmbeds, guidance_scale: float) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=told.tokens,
            pooled_projections=told.extra["pooled"],
            return_dict=False,
        )[0]

    def _middle(self) -> Module:
        blocks = self.network.transformer_blocks
        return blocks[len(blocks) // 2]

    def _picture(self, output: Any, sides: Sequence[int]) -> Float[Tensor, "B C h w"]:
        """Of a block's tokens the picture's, which come after the text's."""
        return output[1].mT.unflatten(-1, [side // self.multiple for side in sides])


def load(source: Path, *, dtype: torch.dtype = torch.float32, **settings) -> StableDiffusion3:
    """The model in a diffusers folder; for `settings` see `begin`."""
    opened = partial(read_folder, StableDiffusion3Pipeline, source, parts=absent(source, OPTIONAL))
    again = partial(read_network, SD3Transformer2DModel, source, "transformer")
    return begin(StableDiffusion3, opened, again, dtype=dtype, **settings)

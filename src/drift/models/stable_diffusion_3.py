"""Stable Diffusion 3 and 3.5 (and the Menagerie's flow model): a flow transformer, MMDiT.

Two CLIP text encoders, and a T5 that may be absent. Trained is a LoRA on the transformer's
attention, or the whole transformer.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from drift.errors import UserError
from drift.files.folders import variant_of
from drift.functional.dynamics import guide
from drift.functional.flow import FlowForm
from drift.models.base import DiffusersPolicy, both, branches, pooled
from drift.models.pipelines import read_folder
from drift.models.schedules import FlowSchedule, Shift, flow_schedule
from drift.types import Conditioned, TextEmbeds

# Without T5 its tokens are zeros. The last two are for pictures as prompts.
OPTIONAL = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")


class StableDiffusion3(DiffusersPolicy):
    """A PolicyModel over a diffusers StableDiffusion3Pipeline."""

    pipe: StableDiffusion3Pipeline
    part = "transformer"

    def __init__(
        self,
        pipe: StableDiffusion3Pipeline,
        *args: Any,
        flow_form: FlowForm = "sde",
        flow_shift: Shift = "twice",
        **settings: Any,
    ):
        super().__init__(pipe, *args, **settings)
        if not isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler):
            kind = type(pipe.scheduler).__name__
            raise UserError(
                f"model.name: its scheduler is {kind}; a flow model's steps are those of "
                "FlowMatchEulerDiscreteScheduler"
            )
        self.flow_form: FlowForm = flow_form
        self.flow_shift: Shift = flow_shift

    @property
    def multiple(self) -> int:
        return self.network.config.patch_size

    def schedule(self, steps: int) -> FlowSchedule:
        scheduler, form, shift = self.pipe.scheduler, self.flow_form, self.flow_shift
        return flow_schedule(scheduler, steps, self.device, form=form, shift=shift)

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned:
        """Tokens of the CLIPs, padded with zeros, then T5's; "pooled" are the CLIPs' own."""
        return branches(self._encode_text(prompts), self._encode_text([negative]))

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> TextEmbeds:
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

    def predict(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Float[Tensor, "B"],
        conditioned: Conditioned,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]:
        """The velocity, guided; a guidance scale of 1 skips the unconditional pass."""
        guided = guidance_scale != 1.0
        x, t, told = latents, timesteps, conditioned.prompt
        if guided:
            x, t, told = torch.cat([x, x]), torch.cat([t, t]), both(conditioned)
        with self._autocast():
            predicted = self.network(
                hidden_states=x,
                timestep=t,
                encoder_hidden_states=told.tokens,
                pooled_projections=told.extra["pooled"],
                return_dict=False,
            )[0].float()
        if self.captured is not None:
            sides = [side // self.multiple for side in latents.shape[-2:]]
            places = self.captured[-1][-len(latents) :].mT.unflatten(-1, sides)
            self.captured[-1] = pooled(places)
        if not guided:
            return predicted
        uncond, cond = predicted.chunk(2)
        return guide(uncond, cond, guidance_scale)

    @contextmanager
    def capture_features(self) -> Iterator[list[Tensor]]:
        """Inside it, `predict` lists the picture's tokens in the middle block, on a grid of places.

        "B 16·C" float32, 24,576 numbers in SD 3.5 medium.
        """
        blocks, seen = self.network.transformer_blocks, []

        def keep(_: Module, inputs: Any, activations: tuple[Tensor, Tensor]) -> None:
            seen.append(activations[1])  # the picture's; the text's are first

        hook, self.captured = blocks[len(blocks) // 2].register_forward_hook(keep), seen
        try:
            yield seen
        finally:
            hook.remove()
            self.captured = None

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], all at once."""
        config = self.pipe.vae.config
        return self._decoded(latents / config.scaling_factor + config.shift_factor)


def load(source: Path, *, dtype: torch.dtype = torch.float32, **settings) -> StableDiffusion3:
    """The model in a diffusers folder."""
    named = json.loads((source / "model_index.json").read_text())
    absent = [part for part in OPTIONAL if not named.get(part, [None])[0]]
    pipe = read_folder(StableDiffusion3Pipeline, source, dtype, dict.fromkeys(absent))
    return StableDiffusion3(pipe, dtype=dtype, read_base=partial(_read, source), **settings)


def _read(source: Path) -> SD3Transformer2DModel:
    return SD3Transformer2DModel.from_pretrained(
        source,
        subfolder="transformer",
        dtype=torch.float32,
        use_safetensors=True,
        variant=variant_of(source / "transformer", field="model.name"),
    ).eval()

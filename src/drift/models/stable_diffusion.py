"""Stable Diffusion (v1.5, v2.1, the Menagerie's model): a UNet with cross-attention.

Trained is a LoRA on the UNet's attention, or the whole UNet; text encoder and autoencoder stay
frozen. Nothing here has dropout, and the UNet stays in eval mode with gradients on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module

from drift.errors import UserError
from drift.functional.dynamics import guide
from drift.models.adapters import Adapter, fuse, fuse_into_unet, read_adapter
from drift.models.pipelines import PredictionType, cast, open_pipeline, read_unet
from drift.models.schedules import DDIMSchedule, ddim_schedule
from drift.models.trained import Trained
from drift.types import Conditioned, TextEmbeds

PLACES = 4  # a side of the grid that captured features are pooled to; docs/encoders.md measures it


class StableDiffusion(Trained):
    """A PolicyModel over a diffusers StableDiffusionPipeline.

    In half precision the frozen parts are stored so, and the UNet computes under autocast; what is
    trained stays float32, and so do latents, guidance and predictions.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        read_base: Callable[[], UNet2DConditionModel] | None = None,
    ):
        """`pipe` is in `dtype` already; `read_base` reads its UNet again, for full fine-tuning."""
        self.pipe, self.device, self.dtype = pipe, torch.device(device), dtype
        if read_base is not None:
            self.read_base = read_base
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        for part in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            part.eval().requires_grad_(False)
        self.pipe.to(self.device)
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.pipe.vae.to(memory_format=torch.channels_last)
        if gradient_checkpointing:
            self.pipe.unet.enable_gradient_checkpointing()
        self.captured: list[Tensor] | None = None

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """(channels, h, w) of a picture of `size` (height, width), or of the model's own."""
        unet, factor = self.pipe.unet.config, self.pipe.vae_scale_factor
        if size is None:
            return unet.in_channels, unet.sample_size, unet.sample_size
        for field, pixels in zip(("height", "width"), size, strict=True):
            if pixels < factor or pixels % factor:
                raise UserError(
                    f"{field}: {pixels} is no multiple of {factor}, as this model needs"
                )
        return unet.in_channels, size[0] // factor, size[1] // factor

    @property
    def network(self) -> Module:
        return self.pipe.unet

    # --- PolicyModel ---

    def schedule(self, steps: int) -> DDIMSchedule:
        return ddim_schedule(self.pipe.scheduler, steps, self.device)

    def encode(self, prompts: Sequence[str], negative: str = "") -> Conditioned:
        """The text encoder's last hidden states, `negative`'s for every row."""
        unconditional = self._encode_text([negative]).expand(len(prompts), -1, -1)
        return Conditioned(TextEmbeds(self._encode_text(prompts)), TextEmbeds(unconditional))

    @torch.no_grad()
    def _encode_text(self, texts: Sequence[str]) -> Float[Tensor, "B L D"]:
        tokens = self.pipe.tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        return self.pipe.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state.float()

    def predict(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, "B"],
        conditioned: Conditioned,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]:
        """What the UNet predicts, guided; a guidance scale of 1 skips the unconditional pass."""
        guided = guidance_scale != 1.0
        x, t, embeds = latents, timesteps, conditioned.prompt.tokens
        if guided:
            embeds = torch.cat([conditioned.negative.tokens, embeds])
            x, t = torch.cat([x, x]), torch.cat([t, t])
        x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            predicted = self.pipe.unet(x, t, embeds, return_dict=False)[0].float()
        if self.captured is not None:  # one entry a call; under guidance the prompt's rows are last
            self.captured[-1] = self.captured[-1][-len(latents) :]
        if not guided:
            return predicted
        uncond, cond = predicted.chunk(2)
        return guide(uncond, cond, guidance_scale)

    @contextmanager
    def capture_features(self) -> Iterator[list[Tensor]]:
        """Inside it, `predict` lists the output of the UNet's middle, on a grid of places.

        "B 16·C" float32, 20,480 numbers in SD 1.5. One place would forget where things are.
        """
        middle, seen = self.pipe.unet.mid_block, []
        if middle is None:
            raise UserError("encoder: 'policy' needs a UNet with a middle block; this one has none")

        def keep(_: Module, inputs: Any, activation: Float[Tensor, "B C h w"]) -> None:
            seen.append(F.adaptive_avg_pool2d(activation.float(), PLACES).flatten(1))

        hook, self.captured = middle.register_forward_hook(keep), seen
        try:
            yield seen
        finally:
            hook.remove()
            self.captured = None

    def _autocast(self) -> torch.autocast:
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if half else None, enabled=half)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], all at once."""
        vae = self.pipe.vae
        scaled = (latents / vae.config.scaling_factor).to(self.device, vae.dtype)
        decoded = vae.decode(scaled.contiguous(memory_format=torch.channels_last)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1).contiguous()


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

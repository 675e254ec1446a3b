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
from drift.functional.dynamics import guide, velocity_to_noise
from drift.models.adapters import Adapter, fuse, fuse_into_unet, read_adapter
from drift.models.pipelines import PredictionType, cast, open_pipeline, read_unet
from drift.models.trained import Trained
from drift.types import Schedule, TextEmbeds

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
        self.alphas = self.pipe.scheduler.alphas_cumprod.to(self.device)
        self.empty_prompt = self.encode_prompts([""]).tokens
        self.captured: list[Tensor] | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        unet = self.pipe.unet.config
        return unet.in_channels, unet.sample_size, unet.sample_size

    @property
    def network(self) -> Module:
        return self.pipe.unet

    # --- PolicyModel ---

    def schedule(self, steps: int) -> Schedule:
        """Times and cumulative alphas exactly as diffusers' DDIMScheduler steps through them."""
        scheduler, total = self.pipe.scheduler, self.pipe.scheduler.config.num_train_timesteps
        if steps <= total:
            scheduler.set_timesteps(steps)
        if steps > total or scheduler.timesteps.max() >= total:  # an offset may lead beyond the end
            raise UserError(f"steps: this model's {total} times do not hold {steps} steps")
        times = scheduler.timesteps.long()
        previous, alphas = times - total // steps, scheduler.alphas_cumprod
        inside = alphas[previous.clamp(min=0)]
        return Schedule(
            timesteps=times,
            alphas=alphas[times],
            next_alphas=torch.where(previous >= 0, inside, scheduler.final_alpha_cumprod),
            fractions=times / total,
        ).to(self.device)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> TextEmbeds:
        tokens = self.pipe.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        )
        encoded = self.pipe.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return TextEmbeds(encoded.float())

    def predict_noise(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, "B"],
        prompt_embeds: TextEmbeds,
        guidance_scale: float,
    ) -> Float[Tensor, "B c h w"]:
        """Guided noise prediction; a guidance scale of 1 skips the unconditional pass."""
        guided = guidance_scale != 1.0
        x, t, embeds = latents, timesteps, prompt_embeds.tokens
        if guided:
            empty = self.empty_prompt.expand_as(embeds)
            x, t, embeds = torch.cat([x, x]), torch.cat([t, t]), torch.cat([empty, embeds])
        x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            predicted = self.pipe.unet(x, t, embeds, return_dict=False)[0].float()
        if self.captured is not None:  # one entry a call; under guidance the prompt's rows are last
            self.captured[-1] = self.captured[-1][-len(latents) :]
        if guided:
            without, with_prompt = predicted.chunk(2)
            predicted = guide(without, with_prompt, guidance_scale)
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            predicted = velocity_to_noise(latents, predicted, self.alphas[timesteps])
        return predicted

    @contextmanager
    def capture_features(self) -> Iterator[list[Tensor]]:
        """Inside it, `predict_noise` lists the output of the UNet's middle, on a grid of places.

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

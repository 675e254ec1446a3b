"""Stable Diffusion (v1.5, v2.1, the Menagerie's model): a UNet with cross-attention.

LoRA sits on the UNet's attention; text encoder and autoencoder stay frozen. Nothing here has
dropout, and the UNet stays in eval mode with gradients on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Int
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn import Module, Parameter
from transformers.utils import logging as transformers_logging

from drift.errors import UserError
from drift.functional.dynamics import guide, velocity_to_noise
from drift.types import Schedule, TextEmbeds

diffusers_logging.disable_progress_bar()  # of loading: a run has one bar, its own
transformers_logging.disable_progress_bar()

PLACES = 4  # a side of the grid that captured features are pooled to; docs/encoders.md measures it


class StableDiffusion:
    """A PolicyModel over a diffusers StableDiffusionPipeline.

    In half precision the frozen parts are stored so, and the UNet computes under autocast; what is
    trained stays float32, and so do latents, guidance and predictions.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        decode_batch: int = 8,
    ):
        """`decode_batch`: images decoded at once; the decoder, not the UNet, needs most memory."""
        self.device, self.dtype, self.decode_batch = torch.device(device), dtype, decode_batch
        self.pipe = _load_pipeline(folder, dtype)
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

    # --- the adapter ---

    def add_adapter(self, rank: int, alpha: int, target_modules: Sequence[str], seed: int) -> None:
        """A fresh LoRA on the UNet; it changes nothing until it is trained (B starts at 0)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pipe.unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))
            )
        cast_training_params(self.pipe.unet, dtype=torch.float32)

    def trainable_parameters(self) -> list[Parameter]:
        return [p for p in self.pipe.unet.parameters() if p.requires_grad]

    def save_adapter(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which plain diffusers loads."""
        config = self.pipe.unet.peft_config["default"]
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(self.pipe.unet),
            unet_lora_adapter_metadata=config.to_dict(),
        )

    def load_adapter(self, folder: Path) -> None:
        """Put saved LoRA weights into the adapter made by `add_adapter`."""
        state, _ = StableDiffusionPipeline.lora_state_dict(folder)
        weights = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
        result = set_peft_model_state_dict(self.pipe.unet, weights)
        if result.unexpected_keys:
            raise UserError(f"{folder}: unexpected LoRA weight '{result.unexpected_keys[0]}'")

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The frozen base model: the adapter switched off."""
        self.pipe.unet.disable_adapters()
        try:
            yield
        finally:
            self.pipe.unet.enable_adapters()

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
        """Images in [0, 1], a few at a time."""
        vae, parts = self.pipe.vae, []
        for part in latents.split(self.decode_batch):
            scaled = (part / vae.config.scaling_factor).to(self.device, vae.dtype)
            decoded = vae.decode(scaled.contiguous(memory_format=torch.channels_last)).sample
            parts.append((decoded.float() / 2 + 0.5).clamp(0, 1).contiguous())
        return torch.cat(parts)


def _load_pipeline(folder: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    try:
        return StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, dtype=dtype
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model: '{folder}' is no Stable Diffusion folder: {reason}") from error

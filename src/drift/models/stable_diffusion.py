"""Stable Diffusion (v1.5, v2.1, the Menagerie's model): a UNet with cross-attention.

Trained is a LoRA on the UNet's attention, or the whole UNet; text encoder and autoencoder stay
frozen. Nothing here has dropout, and the UNet stays in eval mode with gradients on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.training_utils import cast_training_params
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Int
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter
from transformers.utils import logging as transformers_logging

from drift.errors import UserError
from drift.files.foreign import quiet, reason
from drift.files.weights import (
    check_file,
    fit_weights,
    misfits_of,
    read_weights,
    refuse_misfits,
    settle_header,
)
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
        pipe: StableDiffusionPipeline,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        folder: Path | None = None,
    ):
        """`pipe` is in `dtype` already; from its `folder` full fine-tuning reads the base again."""
        self.pipe, self.device, self.dtype = pipe, torch.device(device), dtype
        self.folder = folder
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

    # --- what is trained ---

    def add_adapter(self, rank: int, alpha: int, target_modules: Sequence[str], seed: int) -> None:
        """A fresh LoRA on the UNet; it changes nothing until it is trained (B starts at 0)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pipe.unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))
            )
        cast_training_params(self.pipe.unet, dtype=torch.float32)

    def unfreeze(self) -> None:
        """Train every weight of the UNet, in float32, from the base's own values unrounded."""
        self.pipe.unet.requires_grad_(True)
        if self.dtype != torch.float32:
            cast_training_params(self.pipe.unet, dtype=torch.float32)
            self.pipe.unet.load_state_dict(_read_unet(self.folder).state_dict())

    def trainable_parameters(self) -> list[Parameter]:
        return [p for p in self.pipe.unet.parameters() if p.requires_grad]

    @property
    def _adapted(self) -> bool:
        return hasattr(self.pipe.unet, "peft_config")

    def save_weights(self, folder: Path) -> None:
        """Write what plain diffusers loads: `pytorch_lora_weights.safetensors`, or a whole UNet."""
        if not self._adapted:
            self.pipe.unet.save_config(folder)
            state = {n: p.cpu().contiguous() for n, p in self.pipe.unet.state_dict().items()}
            save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            return
        config = self.pipe.unet.peft_config["default"].to_dict()
        config["target_modules"] = sorted(config["target_modules"])  # a set: its order is chance
        weights = {k: v.cpu() for k, v in get_peft_model_state_dict(self.pipe.unet).items()}
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=weights,
            unet_lora_adapter_metadata=config,
        )
        settle_header(folder / LORA_WEIGHT_NAME_SAFE)

    def load_weights(self, folder: Path) -> None:
        """Put saved weights into the adapter made by `add_adapter`, or the UNet unfrozen."""
        if not self._adapted:
            file, field = folder / SAFETENSORS_WEIGHTS_NAME, "checkpoint"
            fit_weights(self.pipe.unet, read_weights(file, field=field), source=file, field=field)
            return
        file, field = folder / LORA_WEIGHT_NAME_SAFE, "checkpoint"
        state = read_weights(file, field=field)
        weights = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
        misfits = misfits_of(weights, get_peft_model_state_dict(self.pipe.unet))
        refuse_misfits(misfits, source=file, kind="the run's LoRA", field=field)
        set_peft_model_state_dict(self.pipe.unet, weights)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The frozen base model: the adapter switched off, or a copy of the UNet."""
        unet = self.pipe.unet
        if self._adapted:
            unet.disable_adapters()
        else:
            self.pipe.unet = self._base
        try:
            yield
        finally:
            self.pipe.unet = unet
            if self._adapted:
                unet.enable_adapters()

    @cached_property
    def _base(self) -> UNet2DConditionModel:
        """A frozen copy of the base, read when first asked for: few runs need one.

        It predicts to the bit what the unfrozen UNet does before its first step. Autocast rounds
        matrices to half precision, so they are stored so; vectors (of norms) it takes as they are.
        """
        unet = _read_unet(self.folder)
        for parameter in unet.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.to(self.dtype)
        return unet.to(self.device, memory_format=torch.channels_last)

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


def _read_unet(folder: Path | None) -> UNet2DConditionModel:
    """A pipeline's UNet alone, frozen, in float32."""
    unet = UNet2DConditionModel.from_pretrained(
        folder, subfolder="unet", dtype=torch.float32, use_safetensors=True
    )
    return unet.eval().requires_grad_(False)


def _refuse_pickles(folder: Path) -> None:
    """A part of the model that has only a `.bin` would have to be unpickled, which runs code."""
    for part in ("unet", "vae", "text_encoder"):
        files = sorted((folder / part).glob("*.bin"))
        if files and not list((folder / part).glob("*.safetensors")):
            raise UserError(
                f"model.name: {files[0]} is a pickle, which is not read; convert it on a machine "
                "that trusts it: pipe.save_pretrained(FOLDER, safe_serialization=True)"
            )


def _check_files(folder: Path) -> None:
    """Refuse files that cannot be read, and a folder without a tokenizer's, by their names."""
    for file in sorted(folder.glob("*/*")):
        check_file(file, field="model.name")
    words = folder / "tokenizer"
    if not any((words / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"model.name: {words} holds neither tokenizer.json nor vocab.json")


def load(folder: Path, *, dtype: torch.dtype = torch.float32, **settings) -> StableDiffusion:
    """The model in a diffusers folder."""
    _refuse_pickles(folder)
    _check_files(folder)
    # What is not asked for is not downloaded either, though a published index names it.
    left_out = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        with quiet("diffusers", "transformers"):
            pipe = StableDiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, **left_out
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        told = f"'{folder}' is no Stable Diffusion folder: {reason(error)}"
        raise UserError(f"model.name: {told}") from error
    return StableDiffusion(pipe, dtype=dtype, folder=folder, **settings)

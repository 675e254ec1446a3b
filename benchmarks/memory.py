"""`python -m benchmarks memory`: what each stage takes, counted on networks without contents.

The run's own planner is asked, on the real modules in the published sizes, whose parameters are
torch's fake tensors: they have shapes and types, and take no memory. Counted are the tensors that
operators make; a card adds its allocator's gaps and the kernels' work space. Half precision
follows CUDA's autocast, which keeps normalisation and softmax in float32.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import published
from drift.config import TrainConfig
from drift.encoders.dreamsim import DreamSim
from drift.models.stable_diffusion import StableDiffusion
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise
from drift.recipes import load_recipe
from drift.rewards.clip_score import ClipScore
from drift.training.memory import peak_memory
from drift.training.plan import SHARE, plan, read_size, sizes, stages
from drift.training.policy import make_trainable

GB, GIB = 10**9, 2**30
CONTEXT = 0.6 * GB  # that CUDA itself takes of a card, about; not measured here
FLOAT32_UNDER_AUTOCAST = ("layer_norm", "group_norm", "softmax")


@dataclass(frozen=True)
class Imagined:
    """The parts of a run, with parameters that take no memory."""

    config: TrainConfig
    model: StableDiffusion
    reward: ClipScore
    encoder: DreamSim

    def weights(self) -> dict[str, int]:
        """Bytes by part."""
        pipe = self.model.pipe
        modules = {
            "UNet and LoRA": [pipe.unet],
            "text encoder and VAE": [pipe.text_encoder, pipe.vae],
            "reward": [self.reward.model],
            "encoder": [self.encoder],
        }
        return {
            name: sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
            for name, parts in modules.items()
        }


def empty(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers, which are on the meta device, by fake ones on the CPU."""
    for part in module.to_empty(device="cpu").modules():  # untouched pages take no memory either
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.data)
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def imagine(recipe: str, overrides: list[str], size: str = "full") -> Imagined:
    """The paper's parts under a recipe, in the published sizes."""
    config, mode = load_recipe(recipe, overrides), FakeTensorMode(allow_non_fake_inputs=True)
    dtype = getattr(torch, config.model.dtype)
    with tempfile.TemporaryDirectory() as words, torch.device("meta"):
        pipe = published.policy(size, Path(words), dtype)
        clip = published.reward(size, pipe.tokenizer).eval().requires_grad_(False)
        encoder = published.encoder(size).eval().requires_grad_(False)
    model = StableDiffusion(pipe, "meta", dtype, config.model.gradient_checkpointing)
    make_trainable(model, config)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, clip, encoder):
        empty(part, mode)
    model.device = torch.device("cpu")
    side = clip.config.vision_config.image_size
    reward = ClipScore(
        clip, pipe.tokenizer, lambda images: normalise(crop(images, side), CLIP_MEAN, CLIP_STD)
    )
    return Imagined(config, model, reward, encoder)


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """CUDA's rule on the CPU: under autocast, some functions compute and return float32."""

    def in_float32(function: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return function(*args, **kwargs)
            with torch.autocast("cpu", enabled=False):
                args, kwargs = torch.utils._pytree.tree_map_only(
                    torch.Tensor, torch.Tensor.float, (args, kwargs)
                )
                return function(*args, **kwargs)

        return wrapped

    before = {name: getattr(F, name) for name in FLOAT32_UNDER_AUTOCAST}
    for name, function in before.items():
        setattr(F, name, in_float32(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


def fit_card(parts: Imagined, card: float) -> TrainConfig:
    """The plan on a card of so many bytes, of which CUDA and the weights take their part."""
    free = card - CONTEXT - sum(parts.weights().values())
    return plan(parts.config, parts.model, parts.reward, parts.encoder, free=int(SHARE * free))


def report(overrides: list[str], say: Callable[[str], None] = print) -> None:
    """Weights, bytes of each stage for one row and for another, and the plans of common cards."""
    parts = imagine("sd15-pickscore", overrides)
    for name, size in parts.weights().items():
        say(f"{name:28} {size / GB:6.2f} GB")
    with cuda_autocast():
        for stage in stages(parts.config, parts.model, parts.reward, parts.encoder):
            one, two = (
                peak_memory(lambda s=stage, n=n: s.work(n), parts.model.device) for n in (1, 2)
            )
            asked = read_size(parts.config, stage.field)
            total = (one + (asked - 1) * (two - one)) / GB
            say(f"{stage.field:28} {(two - one) / 1e6:6.0f} MB a row, {total:.2f} GB for {asked}")
        for card in (8, 12, 16, 24):
            chosen = sizes(fit_card(parts, card * GIB))
            say(f"{card} GiB: " + ", ".join(f"{k.split('.')[1]} {v}" for k, v in chosen.items()))

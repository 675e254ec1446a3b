"""The parts of the paper's recipe with random weights: in the published sizes, or tiny ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from drift.encoders.dreamsim import Branch, DreamSim
from drift.menagerie.captions import build_tokenizer
from drift.pixels import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

# Stable Diffusion 1.5, PickScore (CLIP ViT-H/14) and DreamSim's three ViT-B/16; and small ones.
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        "picture": 512,
        "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        "text": (49408, 768, 12, 12),
        "reward_vision": (1280, 32, 16),
        "reward_text": (49408, 1024, 24, 16),
        "encoder": (768, 12, 12),
    },
    "tiny": {
        "unet": {
            "block_out_channels": (16, 32, 32, 32),
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
        },
        "picture": 64,
        "vae": {
            "block_out_channels": (8, 8, 16, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        "text": (1024, 32, 1, 2),
        "reward_vision": (32, 1, 2),
        "reward_text": (1024, 32, 1, 2),
        "encoder": (32, 1, 2),
    },
}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def policy(size: str, words: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    """A pipeline in SD 1.5's shape; `words` is a folder for its tokenizer."""
    sizes, tokenizer = SIZES[size], build_tokenizer(words)
    tokenizer.model_max_length = 77
    vocabulary, width, depth, heads = sizes["text"]
    with _default_dtype(dtype):
        unet = UNet2DConditionModel(
            sample_size=sizes["picture"] // 8, attention_head_dim=8, **sizes["unet"]
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=sizes["picture"],
            **sizes["vae"],
        )
        text = CLIPTextModel(CLIPTextConfig(**_text(tokenizer, vocabulary, width, depth, heads)))
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text(tokenizer, vocabulary: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "projection_dim": width,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def reward(size: str, tokenizer) -> CLIPModel:
    """PickScore's network: what its folder holds."""
    width, depth, heads = SIZES[size]["reward_vision"]
    text = _text(tokenizer, *SIZES[size]["reward_text"])
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "gelu",
    }
    return CLIPModel(
        CLIPConfig(
            vision_config=vision,
            text_config=text | {"hidden_act": "gelu"},
            projection_dim=text["hidden_size"],
        )
    )


def branches(size: str) -> list[dict[str, Any]]:
    """Arguments of `Branch` for each of DreamSim's three, DINO first."""
    width, depth, heads = SIZES[size]["encoder"]
    vit = {"image_size": 224, "patch_size": 16, "width": width, "depth": depth, "heads": heads}
    clip = vit | {"mean": CLIP_MEAN, "std": CLIP_STD}
    return [vit | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, clip, clip]


def encoder(size: str) -> DreamSim:
    """DreamSim's ensemble."""
    return DreamSim([Branch(**arguments) for arguments in branches(size)])

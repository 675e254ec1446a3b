"""Stable Diffusion v1.5 and v2.1 as published: their configurations, whole, and shrunk for tests.

The weights are random, under the names of the published files: those of 2022, which today's
libraries still read but no longer write. As from the hub, a safety checker is named but not there.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from drift.menagerie.captions import build_tokenizer

DOWN = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
UP = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]

UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,  # in truth the number of heads
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": DOWN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": UP,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER = {  # CLIP ViT-L/14's
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

# Name -> part -> its config.json
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": TEXT_ENCODER,
        "scheduler": SCHEDULER,
        "index": INDEX,
        "tokenizer": {"pad_token": "<|endoftext|>"},
    },
    "sd21": {
        "unet": UNET
        | {
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "dual_cross_attention": False,
            "num_class_embeds": None,
            "only_cross_attention": False,
            "sample_size": 96,
            "upcast_attention": True,
            "use_linear_projection": True,
        },
        "vae": VAE | {"sample_size": 768},
        "text_encoder": TEXT_ENCODER  # OpenCLIP ViT-H/14's, without the last of its 24 layers
        | {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "projection_dim": 512,
        },
        "scheduler": SCHEDULER
        | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        "index": INDEX
        | {
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "requires_safety_checker": False,
        },
        "tokenizer": {"pad_token": "!"},
    },
}


def shrunk(published: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same layout at an eighth (UNet) and a sixteenth of the widths, for 64x64 pictures."""
    unet, vae, text = (published[part] for part in ("unet", "vae", "text_encoder"))
    return published | {
        "unet": unet
        | {
            "_diffusers_version": "0.10.0",  # of an older one diffusers lifts sample_size to 64
            "block_out_channels": [width // 8 for width in unet["block_out_channels"]],
            "cross_attention_dim": unet["cross_attention_dim"] // 16,
            "norm_num_groups": 8,
            "sample_size": 8,
        },
        "vae": vae
        | {
            "block_out_channels": [width // 16 for width in vae["block_out_channels"]],
            "norm_num_groups": 4,
            "sample_size": 64,
        },
        "text_encoder": text
        | {
            "hidden_size": text["hidden_size"] // 16,
            "intermediate_size": text["intermediate_size"] // 16,
            "num_hidden_layers": text["num_hidden_layers"] // 6,
            "vocab_size": 1024,
        },
    }


def unet_of(config: dict[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(config)


def vae_of(config: dict[str, Any]) -> AutoencoderKL:
    return AutoencoderKL.from_config(config)


def text_encoder_of(config: dict[str, Any]) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


def published_vae_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention in the autoencoder has been renamed since."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = {}
    for name, tensor in state.items():
        for new, old in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        named[name] = tensor
    return named


def published_text_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder was wrapped once more then, and had its positions stored."""
    named = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in state.items()}
    return named | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def _write(folder: Path, file: str, config: dict[str, Any], state=None) -> None:
    folder.mkdir(parents=True)
    name = "scheduler_config.json" if "beta_start" in config else "config.json"
    (folder / name).write_text(json.dumps(config))
    if state is not None:
        tensors = {key: tensor.contiguous() for key, tensor in state.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})


def write_pipeline(folder: Path, published: dict[str, dict[str, Any]]) -> Path:
    """A diffusers folder of random weights in the layout of the published one."""
    torch.manual_seed(0)
    unet, vae = unet_of(published["unet"]).state_dict(), vae_of(published["vae"]).state_dict()
    text = text_encoder_of(published["text_encoder"]).state_dict()
    weights = "diffusion_pytorch_model.safetensors"
    _write(folder / "unet", weights, published["unet"], unet)
    _write(folder / "vae", weights, published["vae"], published_vae_names(vae))
    named = published_text_names(text)
    _write(folder / "text_encoder", "model.safetensors", published["text_encoder"], named)
    _write(folder / "scheduler", "", published["scheduler"])
    build_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(
        folder / "tokenizer", model_max_length=77, **published["tokenizer"]
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(published["index"]))
    return folder

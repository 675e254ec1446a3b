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

from drift.files.single_file import LAYOUTS
from drift.menagerie.captions import build_tokenizer

# Name -> part -> its config.json; they are shipped, for files that come without
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    name: json.loads((LAYOUTS / f"{name}.json").read_text()) for name in ("sd15", "sd21")
}


XL: dict[str, dict[str, Any]] = json.loads((LAYOUTS / "sdxl.json").read_text())


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


def shrunk_xl(published: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """SDXL's layout in an eighth of the UNet's widths and fewer layers, for 64x64 pictures."""
    unet, two = published["unet"], published["text_encoder_2"]
    small = shrunk(published)
    words = {"vocab_size": 49408}
    return small | {
        "unet": unet
        | {
            "block_out_channels": [width // 8 for width in unet["block_out_channels"]],
            "attention_head_dim": [1, 2, 4],
            "transformer_layers_per_block": [1, 2, 3],
            "cross_attention_dim": 48 + 80,
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 80 + 6 * 32,
            "norm_num_groups": 8,
            "sample_size": 8,
        },
        "text_encoder": small["text_encoder"] | words,
        "text_encoder_2": two
        | {
            "hidden_size": 80,
            "intermediate_size": 320,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "projection_dim": 80,
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

"""The image tower in an open_clip checkpoint, as a plain `VisionTransformer`.

Shapes say all but three things, which `open_clip_config.json` beside the file says, if it is there:
how wide a head is, whether GELU is OpenAI's quick one, and the colour statistics. Without it: 64
(but see HEAD_WIDTH), exact GELU, CLIP's own. Towers from timm, poolers other than the class token
and other shapes of MLP (ViT-g, bigG) are refused as misfits.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.encoders.vit import VisionTransformer
from drift.errors import UserError
from drift.files.weights import fit_weights, read_json, read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG = "open_clip_config.json"
HEAD_WIDTH = {1280: 80}  # of ViT-H; 64 everywhere else
NAMES = (  # open_clip's -> VisionTransformer's
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def find(path: Path) -> Path | None:
    """The checkpoint that `path` is, or holds under one of open_clip's names."""
    if path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def read(file: Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """The tower, and its picture size and colour statistics by the names of `Clip`."""
    content = read_weights(file, field="encoder")
    state = to_vit(content.get("state_dict", content))
    config = read_json(file.parent / CONFIG, field="encoder")
    model, colours = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    if not {"patch_embed.proj.weight", "pos_embed", "proj"} <= state.keys():
        raise UserError(f"encoder: {file} is no open_clip checkpoint with a ViT (visual.*)")
    arguments = infer(state, model.get("vision_cfg", {}).get("head_width", 0))
    tower = VisionTransformer(
        **arguments,
        eps=1e-5,
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        pre_norm=True,
    )
    fit_weights(tower, state, source=file, field="encoder")
    return tower, {
        "image_size": arguments["image_size"],
        "mean": colours.get("mean") or CLIP_MEAN,
        "std": colours.get("std") or CLIP_STD,
    }


def to_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an open_clip state dict under the names of `VisionTransformer`."""
    converted = {}
    for name, tensor in state.items():
        if not name.startswith("visual."):
            continue
        name = name.removeprefix("visual.")
        for old, new in NAMES:
            name = re.sub(old, new, name)
        converted[name] = tensor
    for name in ("cls_token", "pos_embed"):  # ours have a batch axis
        if name in converted:
            converted[name] = converted[name].reshape(1, -1, converted[name].shape[-1])
    if "patch_embed.proj.weight" in converted:  # CLIP's has no bias
        kernel = converted["patch_embed.proj.weight"]
        converted["patch_embed.proj.bias"] = torch.zeros_like(kernel[:, 0, 0, 0])
    return converted


def infer(state: dict[str, Tensor], head_width: int = 0) -> dict[str, Any]:
    """Sizes of the `VisionTransformer` that `state` fits."""
    width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return {
        "image_size": patch_size * math.isqrt(state["pos_embed"].shape[1] - 1),
        "patch_size": patch_size,
        "width": width,
        "depth": len(blocks),
        "heads": max(1, width // (head_width or HEAD_WIDTH.get(width, 64))),
        "projection": state["proj"].shape[1] if "proj" in state else 0,
    }

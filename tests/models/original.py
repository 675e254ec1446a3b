"""Stable Diffusion's parts under the names of the original CompVis code, in one file.

Written from the original modules' numbering, not by inverting the functions that are tested.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.models.published import text_encoder_of, unet_of, vae_of

WORDS = 49408  # of CLIP's vocabulary: a file comes without a tokenizer
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_places() -> dict[str, str]:
    """A module of diffusers' UNet -> its place in the original's numbered blocks."""
    places = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    return places | level_places(4, first_attends=False)


def level_places(count: int, *, first_attends: bool) -> dict[str, str]:
    """Those of the ways down and up, of so many levels."""
    places = {}
    for i in range(count):
        for j in range(2):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{3 * i + j + 1}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{3 * i + j + 1}.1"
        for j in range(3):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{3 * i + j}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{3 * i + j}.1"
        places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
        after = 2 if i or first_attends else 1  # of the first way up
        places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{3 * i + 2}.{after}.conv"
    return places


def xl_places() -> dict[str, str]:
    """The same of SDXL's three levels, whose first and last have no attention."""
    places = {name: place for name, place in unet_places().items() if "blocks" not in name}
    places |= {f"add_embedding.linear_{k}": f"label_emb.0.{2 * (k - 1)}" for k in (1, 2)}
    return places | level_places(3, first_attends=True)


def original_unet(
    state: dict[str, Tensor], places: dict[str, str] | None = None
) -> dict[str, Tensor]:
    places, named = places or unet_places(), {}
    for name, tensor in state.items():
        module = max((m for m in places if name.startswith(f"{m}.")), key=len)
        rest = name.removeprefix(module)
        if ".resnets." in name:
            _, part, end = rest.split(".")
            rest = f".{RESNET[part]}.{end}"
        named[f"model.diffusion_model.{places[module]}{rest}"] = tensor
    return named


def original_vae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way up is counted from the picture, and attention is made of convolutions of 1 x 1."""
    named = {}
    for name, tensor in state.items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        for i in range(4):
            name = name.replace(f"up_blocks.{i}.resnets.", f"up.{3 - i}.block.")
            name = name.replace(f"up_blocks.{i}.upsamplers.0", f"up.{3 - i}.upsample")
        name = re.sub(
            r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m.group(1)) + 1}", name
        )
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for new, old in {
                "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"
            }.items():  # fmt: skip
                name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        named[f"first_stage_model.{name}"] = tensor
    return named


def original_clip(
    state: dict[str, Tensor], prefix: str = "cond_stage_model.transformer.text_model."
) -> dict[str, Tensor]:
    named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    return named | {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}


def original_open_clip(
    state: dict[str, Tensor], prefix: str = "cond_stage_model.model."
) -> dict[str, Tensor]:
    """With projections in one matrix; v2's with a last of 24 layers, which is never asked."""
    named = {}
    if "text_projection.weight" in state:
        named[f"{prefix}text_projection"] = state["text_projection.weight"].T
        state = {name: t for name, t in state.items() if name != "text_projection.weight"}
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        name = name.replace("encoder.layers.", "transformer.resblocks.")
        for new, old in OPEN_CLIP.items():
            name = name.replace(new, old)
        name = name.replace("embeddings.token_embedding", "token_embedding")
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("final_layer_norm", "ln_final")
        if "_proj." in name and "self_attn" in name:
            continue
        named[prefix + name] = tensor
    layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")}
    for k in layers:
        for end in ("weight", "bias"):
            attention = f"encoder.layers.{k}.self_attn"
            joined = torch.cat([state[f"{attention}.{p}_proj.{end}"] for p in "qkv"])
            named[f"{prefix}transformer.resblocks.{k}.attn.in_proj_{end}"] = joined
    width = state["final_layer_norm.weight"].shape[0]
    if f"{prefix}text_projection" not in named:
        named[f"{prefix}transformer.resblocks.23.ln_1.weight"] = torch.ones(width)
        named[f"{prefix}text_projection"] = torch.eye(width)
    return named | {f"{prefix}logit_scale": torch.tensor(4.6)}


def write_file(file: Path, published: dict, *, header=None, ema: bool = False) -> dict[str, dict]:
    """Random weights in the original layout; returns them, by part, under diffusers' names.

    With `ema` they are the moving averages, beside others that a sampler does not want.
    """
    torch.manual_seed(0)
    unet, vae = unet_of(published["unet"]).state_dict(), vae_of(published["vae"]).state_dict()
    text = text_encoder_of(published["text_encoder"]).state_dict()
    wide = published["text_encoder"]["num_attention_heads"] == 16  # OpenCLIP's, of v2
    named = original_unet(unet)
    if ema:
        averages = {
            f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor
            for name, tensor in named.items()
        }
        named = {name: torch.zeros_like(tensor) for name, tensor in named.items()} | averages
    named |= original_vae(vae) | (original_open_clip if wide else original_clip)(text)
    named["betas"] = torch.zeros(1000)  # of the training's schedule
    save_file({k: t.contiguous() for k, t in named.items()}, file, metadata=header)
    return {"unet": unet, "vae": vae, "text_encoder": text}


def write_xl_file(file: Path, published: dict, header=None) -> dict[str, dict]:
    """The same of SDXL, whose two text encoders stand one behind the other."""
    torch.manual_seed(0)
    unet, vae = unet_of(published["unet"]).state_dict(), vae_of(published["vae"]).state_dict()
    one = text_encoder_of(published["text_encoder"]).state_dict()
    config = CLIPTextConfig.from_dict(published["text_encoder_2"])
    two = CLIPTextModelWithProjection(config).state_dict()
    named = original_unet(unet, xl_places()) | original_vae(vae)
    named |= original_clip(one, "conditioner.embedders.0.transformer.text_model.")
    named |= original_open_clip(two, "conditioner.embedders.1.model.")
    save_file({k: t.contiguous() for k, t in named.items()}, file, metadata=header)
    return {"unet": unet, "vae": vae, "text_encoder": one, "text_encoder_2": two}

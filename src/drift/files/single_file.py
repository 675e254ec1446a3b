"""Stable Diffusion (SDXL too) in one .safetensors file, under the names of the original code.

Such a file holds the weights of all networks and next to nothing else. Their configurations
and the words of CLIP's tokenizer are shipped in `layouts/`, as they were published; weights are
renamed by diffusers' own functions, and each must be there in its shape. Files of SD 3 and FLUX
come without text encoders, or with some, so that nothing whole could be made of one.
"""

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drift.errors import UserError
from drift.files.foreign import reason
from drift.files.weights import fit_weights

LAYOUTS = Path(str(files("drift"))) / "files" / "layouts"
MERGES = LAYOUTS / "merges.txt"  # OpenAI's, of CLIP; the vocabulary follows from them
FIELD = "model.name"

# What only one layout's files have -> its name in LAYOUTS
MARKS = {
    "cond_stage_model.transformer.": "sd15",
    "cond_stage_model.model.": "sd21",
    "conditioner.embedders.0.transformer.": "sdxl",
}
# What others have, and what they then are
FOLDER = "without its text encoders; name its diffusers folder or hub id in model.name"
OTHERS = {
    "conditioner.": "of Stable Diffusion XL, but not of the base model: a refiner, or a part",
    "model.diffusion_model.joint_blocks.": f"of Stable Diffusion 3, {FOLDER}",
    "model.diffusion_model.double_blocks.": f"of FLUX, {FOLDER}",
    "double_blocks.": f"of FLUX, {FOLDER}",
    "lora_": "a LoRA; name it in model.adapter, and its base in model.name",
    "unet.": "a LoRA; name it in model.adapter, and its base in model.name",
}
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")  # not OpenAI's CLIP
# The header's words (modelspec.org) -> diffusers'
HEADER = {"epsilon": "epsilon", "v": "v_prediction"}


def read_header(file: Path) -> tuple[dict[str, str], list[str]]:
    """The metadata and the names of the tensors in `file`."""
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise UserError(
            f"{FIELD}: {file} is no .safetensors file; a .ckpt is a pickle, which is not read: "
            "convert it on a machine that trusts it"
        )
    try:
        with safe_open(file, "pt") as stored:
            return stored.metadata() or {}, list(stored.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{FIELD}: cannot read {file}: {reason(error)}") from error


def layout_of(file: Path) -> dict[str, dict[str, Any]]:
    """The configurations, by part, of the published model that `file` is laid out like."""
    return json.loads((LAYOUTS / f"{_kind_of(file)}.json").read_text())


def _kind_of(file: Path) -> str:
    """The name of its layout."""
    _, names = read_header(file)
    marked = [MARKS[mark] for mark in MARKS if any(name.startswith(mark) for name in names)]
    if len(marked) == 1:
        return marked[0]
    told = [OTHERS[mark] for mark in OTHERS if any(name.startswith(mark) for name in names)]
    what = told[0] if told else "no Stable Diffusion checkpoint with its text encoder in it"
    raise UserError(f"{FIELD}: {file} is {what}; it holds {', '.join(sorted(names)[:3])}, ...")


def prediction_type_of(file: Path) -> str:
    """ "epsilon" or "v_prediction", as far as the file tells.

    All of SD 1.x and SDXL predict noise but those with a tensor `v_pred`; SD 2.x may do either,
    and look alike: only a header tells.
    """
    header, names = read_header(file)
    told = HEADER.get(header.get("modelspec.prediction_type", "").lower())
    if told or "v_pred" in names:
        return told or "v_prediction"
    if _kind_of(file) != "sd21":
        return "epsilon"
    raise UserError(
        f"model.prediction_type: {file} is of SD 2.x, which predicts noise (2.1-base, 512 px) or "
        "velocity (2.1, 768 px), and does not say which; set epsilon or v_prediction"
    )


def load_part(file: Path, part: str) -> Any:
    """Its "unet", "vae", "text_encoder" or "text_encoder_2", in float32 and in eval mode."""
    convert, prefixes = PARTS[part]
    network, converted = convert(layout_of(file)[part], _read(file, prefixes))
    wanted = network.state_dict().keys()
    fitting = {name: tensor for name, tensor in converted.items() if name in wanted}
    fit_weights(network, fitting, source=file, field=FIELD)
    return network.eval()


def load_tokenizer(file: Path, part: str = "tokenizer"):
    """CLIP's, as the layout wants it."""
    from transformers import CLIPTokenizer

    settings = {"model_max_length": 77} | layout_of(file)[part]
    vocabulary, merges = _words()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), **settings)


@cache
def _words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens' numbers and the merges: single bytes, these as ends of words, merges, marks."""
    from tokenizers.pre_tokenizers import ByteLevel

    lines = MERGES.read_text(encoding="utf-8").splitlines()[1:]
    merges = [(one, two) for one, two in map(str.split, lines)]
    single = sorted(ByteLevel.alphabet())
    tokens = [*single, *(c + "</w>" for c in single), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _read(file: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights of one part: a file is larger than any."""
    from safetensors import safe_open

    _, names = read_header(file)
    with safe_open(file, "pt") as stored:
        return {name: stored.get_tensor(name) for name in names if name.startswith(prefixes)}


Converted = tuple[nn.Module, dict[str, Tensor]]


def _unet(config: dict[str, Any], state: dict[str, Tensor]) -> Converted:
    """The moving average of its weights, where a file holds it beside the last ones."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    converted = convert_ldm_unet_checkpoint(state, config, extract_ema=True)
    return _empty(UNet2DConditionModel, config), converted


def _vae(config: dict[str, Any], state: dict[str, Tensor]) -> Converted:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return _empty(AutoencoderKL, config), convert_ldm_vae_checkpoint(state, config)


def _text_encoder(config: dict[str, Any], state: dict[str, Tensor]) -> Converted:
    import transformers
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_open_clip_checkpoint,
    )

    kind = getattr(transformers, config["architectures"][0])
    network = kind(transformers.CLIPTextConfig.from_dict(config))
    prefix = next((p for p in OPEN_CLIP if any(name.startswith(p) for name in state)), None)
    if prefix:
        converted = convert_open_clip_checkpoint(network, state, prefix)
    else:
        converted = convert_ldm_clip_checkpoint(state)
    wrapped = "text_model." if hasattr(network, "text_model") else ""  # until transformers 5.6
    return network, {
        name
        if name.startswith("text_projection")
        else wrapped + name.removeprefix("text_model."): t
        for name, t in converted.items()
    }


def _empty(kind: Any, config: dict[str, Any]) -> nn.Module:
    """A network of diffusers whose weights are not drawn first, only to be replaced."""
    with torch.device("meta"):
        network = kind.from_config(config)
    return network.to_empty(device="cpu")


# How a part is made, and how its weights' names begin
Convert = Callable[[dict[str, Any], dict[str, Tensor]], Converted]
PARTS: dict[str, tuple[Convert, tuple[str, ...]]] = {
    "unet": (_unet, ("model.diffusion_model.", "model_ema.")),
    "vae": (_vae, ("first_stage_model.",)),
    "text_encoder": (_text_encoder, ("cond_stage_model.", "conditioner.embedders.0.")),
    "text_encoder_2": (_text_encoder, ("conditioner.embedders.1.",)),
}

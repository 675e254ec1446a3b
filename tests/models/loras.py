"""LoRAs of tiny models, written as diffusers, peft and kohya's scripts write them."""

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LEFT_OUT = {"safety_checker": None, "feature_extractor": None}
RANK, ALPHA = 3, 6  # not equal, or a forgotten alpha would not show
# diffusers knows kohya's names for text by these, all of which kohya's scripts train
WORDS = LoraConfig(
    r=2,
    lora_alpha=4,
    target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
)


def shake(network) -> None:
    """Random LoRA weights, in B too, so that they show."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


def shaken(model: Path, *, text: bool = False, **changes) -> StableDiffusionPipeline:
    """The pipeline in a folder with a LoRA on its UNet, and one on its text encoder."""
    pipe = StableDiffusionPipeline.from_pretrained(model, **LEFT_OUT)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ATTENTION} | changes
    pipe.unet.add_adapter(LoraConfig(**settings))
    shake(pipe.unet)
    if text:
        pipe.text_encoder.add_adapter(copy.deepcopy(WORDS))
        shake(pipe.text_encoder)
    return pipe


def write_diffusers(model: Path, folder: Path, *, text: bool = False, **changes) -> Path:
    """As the training scripts of diffusers do, which keep the LoraConfig in the header."""
    pipe = shaken(model, text=text, **changes)
    own = {}
    if text:
        state = get_peft_model_state_dict(pipe.text_encoder)
        own = {"text_encoder_lora_layers": convert_state_dict_to_diffusers(state)}
        own["text_encoder_lora_adapter_metadata"] = pipe.text_encoder.peft_config[
            "default"
        ].to_dict()
    config = pipe.unet.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=config,
        **own,
    )
    return folder


def write_peft(model: Path, folder: Path, **changes) -> Path:
    """As peft does: weights, and their LoraConfig beside them."""
    pipe = StableDiffusionPipeline.from_pretrained(model, **LEFT_OUT)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ATTENTION, "lora_dropout": 0.1}
    unet = get_peft_model(pipe.unet, LoraConfig(**settings | changes))
    shake(unet)
    unet.save_pretrained(folder)
    return folder


def write_kohya(model: Path, file: Path, *, text: bool = False, **changes) -> Path:
    """As sd-scripts do: layers joined by underscores, down and up, and alpha for each layer."""
    pipe = shaken(model, text=text, **changes)
    state = named(pipe.unet, "lora_unet_", ALPHA)
    if text:
        state |= named(pipe.text_encoder, "lora_te_", 4)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file, {"ss_network_module": "networks.lora"})
    return file


def named(network, prefix: str, alpha: float) -> dict[str, Tensor]:
    state = {}
    for name, tensor in get_peft_model_state_dict(network).items():
        layer, _, end = name.partition(".lora_")
        if prefix == "lora_te_":
            layer = f"text_model.{layer.removeprefix('text_model.')}"
        layer = prefix + layer.replace(".", "_")
        state[f"{layer}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = tensor.contiguous()
        state[f"{layer}.alpha"] = torch.tensor(float(alpha))
    return state

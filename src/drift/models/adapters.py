"""A LoRA to begin with: read from whichever form it was published in, continued or fused.

Read are diffusers' `pytorch_lora_weights.safetensors`, peft's `adapter_model.safetensors` with its
`adapter_config.json`, and the files of kohya's scripts, where diffusers knows these of a family.
Its own functions rename and load, so that the policy is the very one of `pipe.load_lora_weights`;
here it is made sure that every weight has a place, which they leave at a warning.
"""

import json
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn

from drift.errors import UserError
from drift.files.weights import read_json, read_weights, refuse_misfits
from drift.models.layers import NAME

FIELD = "model.adapter"
DIFFUSERS, PEFT = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """A LoRA as diffusers' loaders take it: "unet.LAYER.lora_A.weight", or an older name.

    `network` is the part of its pipeline that is trained, "unet" or "transformer".
    """

    file: Path
    network: str
    state: dict[str, Tensor]
    alphas: dict[str, float] | None = None
    metadata: dict[str, Any] | None = None  # of its LoraConfig, by "unet.KEY"

    @property
    def texts(self) -> list[str]:
        """The text encoders that are changed by it as well."""
        parts = {name.partition(".")[0] for name in self.state}
        return sorted(part for part in parts if part.startswith("text_encoder"))

    def part(self, name: str) -> dict[str, Tensor]:
        """What is for the network or a text encoder, by peft's names: "LAYER.lora_A.weight"."""
        own = {k.partition(".")[2]: t for k, t in self.state.items() if k.startswith(f"{name}.")}
        if name == self.network:
            named = any(".lora_A." in key for key in own)
            return own if named else convert_unet_state_dict_to_peft(own)
        try:
            return convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
        except ValueError as error:  # diffusers tells the form by some layers alone
            told = f"diffusers does not know the form of its text encoder's {', '.join(own)[:200]}"
            raise UserError(f"{FIELD}: cannot read the LoRA in {self.file}: {told}") from error


def find_file(path: Path) -> Path:
    """The file of weights in a folder; or the file itself."""
    if path.is_file():
        found = [path]
    else:
        named = [path / name for name in (DIFFUSERS, PEFT) if (path / name).is_file()]
        found = named[:1] or sorted(path.glob("*.safetensors"))
    if len(found) != 1 or found[0].suffix != ".safetensors":
        told = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{FIELD}: '{path}' must hold one .safetensors file of a LoRA, not {told}")
    return found[0]


def adapter_files(path: Path) -> dict[str, Path]:
    """The files that make the LoRA at `path`, by name."""
    file = find_file(path)
    beside = file.with_name(PEFT_CONFIG)
    return {f.name: f for f in (beside, file) if f.is_file()}


def read_adapter(path: Path, pipe: DiffusionPipeline) -> Adapter:
    """The LoRA at `path`, a file or a folder with one; an error if it is none of such a pipeline.

    A pipeline's class says to which of its parts LoRAs belong, the network before text encoders.
    """
    file, parts = find_file(path), type(pipe)._lora_loadable_modules
    raw, kind = read_weights(file, field=FIELD), type(pipe).__name__
    strange = [name for name in raw if not _is_lora(name)]
    _refuse(file, {"that are of no LoRA": strange, "not finite": _not_finite(raw)}, kind)
    if _is_peft(file, raw):
        adapter = _read_peft(file, raw, parts[0])
    else:
        adapter = _read_others(file, pipe, parts[0])
    lost = [name for name in adapter.state if name.partition(".")[0] not in parts]
    if lost and all(name.startswith("lora_") for name in lost):
        told = f"is in kohya's form, which diffusers does not read for a {kind}; convert it first"
        raise UserError(f"{FIELD}: {file} {told}")
    _refuse(file, {"of other networks": lost}, kind)
    if not adapter.part(parts[0]):
        raise UserError(f"{FIELD}: {file} has no weights for the {parts[0]}")
    return adapter


def _is_lora(name: str) -> bool:
    """Whether by any of its names; a DoRA, LoHa or LoKr has others beside."""
    known = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora.down.", "lora.up.")
    known += ("lora_linear_layer.down.", "lora_linear_layer.up.")
    return name.endswith(".alpha") or any(part in name for part in known)


def _not_finite(state: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if not tensor.isfinite().all()]


def _is_peft(file: Path, raw: dict[str, Tensor]) -> bool:
    return file.name == PEFT or all(name.startswith("base_model.model.") for name in raw)


def _read_peft(file: Path, raw: dict[str, Tensor], network: str) -> Adapter:
    """peft's own form of one network; rank, alpha and scaling are in the file beside it."""
    config = read_json(file.with_name(PEFT_CONFIG), field=FIELD)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{FIELD}: {file} needs the {PEFT_CONFIG} of a LoRA beside it")
    state = {}
    for name, tensor in raw.items():
        layer = name.removeprefix("base_model.model.").removeprefix(f"{network}.")
        state[f"{network}.{layer}"] = tensor
    own = {f"{network}.{key}": value for key, value in config.items()}
    return Adapter(file, network, state, metadata=own)


def _read_others(file: Path, pipe: DiffusionPipeline, network: str) -> Adapter:
    """diffusers' and kohya's, told apart and renamed by diffusers; of SD 3 it returns no alphas."""
    try:
        state, *alphas, metadata = type(pipe).lora_state_dict(
            file.parent,
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            unet_config=getattr(pipe, network).config,  # by which SDXL's blocks are counted
            return_alphas=True,
            return_lora_metadata=True,
        )
    except (ValueError, KeyError, IndexError, json.JSONDecodeError) as error:  # it finds no place
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{FIELD}: cannot read the LoRA in {file}: {reason}") from error
    return Adapter(file, network, state, alphas[0] if alphas else None, metadata)


def check_fit(adapter: Adapter, part: str, network: nn.Module) -> None:
    """One error that names all of an adapter's weights that `network` has no place for."""
    layers = dict(network.named_modules())
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    misfits: dict[str, list[str]] = {"that fit no layer": [], "of another shape": []}
    for name, tensor in adapter.part(part).items():
        layer, _, end = name.partition(".lora_")
        layer = layer if layer in layers else layer.removeprefix("text_model.")
        weight = getattr(layers.get(layer), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
            misfits["that fit no layer"].append(name)
            continue
        pairs[layer][end] = tensor
        ours, theirs = (tensor.shape[0], weight.shape[0])
        if end == "A.weight":
            ours, theirs = tensor.shape[1:], weight.shape[1:]
        if ours != theirs:
            told = f"{name} {list(tensor.shape)} for a layer {list(weight.shape)}"
            misfits["of another shape"].append(told)
    misfits["without their other half"] = [
        layer for layer, ends in pairs.items() if not {"A.weight", "B.weight"} <= ends.keys()
    ]
    _refuse(adapter.file, misfits, type(network).__name__)


def _refuse(file: Path, misfits: dict[str, list[str]], kind: str) -> None:
    refuse_misfits(misfits, source=file, kind=kind, field=FIELD)


def load_into(adapter: Adapter, network: ModelMixin, name: str = NAME) -> None:
    """Put it on the network beside others, frozen, in float32; it is then the active one."""
    _inject(adapter, network, name)
    for key, parameter in network.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.float()
            parameter.requires_grad_(False)
    set_peft_model_state_dict(network, adapter.part(adapter.network), name)  # unrounded
    network.set_adapter(name)
    network.eval()
    for key, parameter in network.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)


def _inject(adapter: Adapter, network: ModelMixin, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        network.load_lora_adapter(
            dict(adapter.state),
            prefix=adapter.network,
            network_alphas=adapter.alphas,
            adapter_name=name,
            metadata=adapter.metadata,
        )


def fuse_into(adapter: Adapter, network: ModelMixin) -> ModelMixin:
    """Add it to the network's own weights, for good; best in float32."""
    check_fit(adapter, adapter.network, network)
    _inject(adapter, network, NAME)
    network.fuse_lora()
    network.unload_lora()
    return network.eval()


def fuse(adapter: Adapter, pipe: DiffusionPipeline) -> None:
    """Add it to the weights of the network and of text encoders, for good; best in float32."""
    for name in adapter.texts:
        check_fit(adapter, name, getattr(pipe, name))
    for name in adapter.texts:
        pipe.load_lora_into_text_encoder(
            dict(adapter.state),
            network_alphas=adapter.alphas,
            text_encoder=getattr(pipe, name),
            prefix=name,
            adapter_name=NAME,
            metadata=adapter.metadata,
        )
    if adapter.texts:
        pipe.fuse_lora(components=adapter.texts)
    fuse_into(adapter, getattr(pipe, adapter.network))
    pipe.unload_lora_weights()

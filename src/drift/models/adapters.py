"""A LoRA to begin with: read from whichever form it was published in, continued or fused.

Read are diffusers' `pytorch_lora_weights.safetensors`, peft's `adapter_model.safetensors` with its
`adapter_config.json`, and the files of kohya's scripts. diffusers' own functions rename and load,
so that the policy is the very one of `pipe.load_lora_weights`; here it is made sure that every
weight has a place, which they leave at a warning.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn

from drift.errors import UserError
from drift.files.weights import read_json, read_weights, refuse_misfits

FIELD = "model.adapter"
DIFFUSERS, PEFT = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
NAME = "default"  # of the adapter that is trained


@dataclass(frozen=True)
class Adapter:
    """A LoRA as diffusers' loaders take it: "unet.LAYER.lora_A.weight", or an older name."""

    file: Path
    state: dict[str, Tensor]
    alphas: dict[str, float] | None = None
    metadata: dict[str, Any] | None = None  # of its LoraConfig, by "unet.KEY"

    @property
    def has_text(self) -> bool:
        """Whether a text encoder is changed by it as well."""
        return any(name.startswith("text_encoder.") for name in self.state)

    def part(self, name: str) -> dict[str, Tensor]:
        """What is for the "unet" or "text_encoder", by peft's names: "LAYER.lora_A.weight"."""
        own = {k.partition(".")[2]: t for k, t in self.state.items() if k.startswith(f"{name}.")}
        if name == "unet":
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


def read_adapter(path: Path) -> Adapter:
    """The LoRA at `path`, a file or a folder with one; what is no LoRA of a UNet is an error."""
    file = find_file(path)
    raw = read_weights(file, field=FIELD)
    strange = [name for name in raw if not _is_lora(name)]
    _refuse(file, {"that are of no LoRA": strange, "not finite": _not_finite(raw)})
    adapter = _read_peft(file, raw) if _is_peft(file, raw) else _read_others(file)
    lost = [name for name in adapter.state if not name.startswith(("unet.", "text_encoder."))]
    _refuse(file, {"of other networks": lost})
    if not adapter.part("unet"):
        raise UserError(f"{FIELD}: {file} has no weights for the UNet")
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


def _read_peft(file: Path, raw: dict[str, Tensor]) -> Adapter:
    """peft's own form of a UNet alone; rank, alpha and scaling are in the file beside it."""
    config = read_json(file.with_name(PEFT_CONFIG), field=FIELD)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{FIELD}: {file} needs the {PEFT_CONFIG} of a LoRA beside it")
    state = {}
    for name, tensor in raw.items():
        layer = name.removeprefix("base_model.model.").removeprefix("unet.")
        state[f"unet.{layer}"] = tensor
    return Adapter(file, state, metadata={f"unet.{key}": value for key, value in config.items()})


def _read_others(file: Path) -> Adapter:
    """diffusers' and kohya's, told apart and renamed by diffusers."""
    try:
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            file.parent,
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
        )
    except (ValueError, KeyError, json.JSONDecodeError) as error:  # of names that it cannot place
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{FIELD}: cannot read the LoRA in {file}: {reason}") from error
    return Adapter(file, state, alphas, metadata)


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
    _refuse(adapter.file, misfits, kind=type(network).__name__)


def _refuse(file: Path, misfits: dict[str, list[str]], kind: str = "Stable Diffusion") -> None:
    refuse_misfits(misfits, source=file, kind=kind, field=FIELD)


def load_into_unet(adapter: Adapter, unet: UNet2DConditionModel, name: str = NAME) -> None:
    """Put it on the UNet beside others, frozen, in float32; it is then the active one."""
    _inject(adapter, unet, name)
    for key, parameter in unet.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.float()
            parameter.requires_grad_(False)
    set_peft_model_state_dict(unet, adapter.part("unet"), name)  # unrounded
    unet.set_adapter(name)
    unet.eval()
    for key, parameter in unet.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)


def _inject(adapter: Adapter, unet: UNet2DConditionModel, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        StableDiffusionPipeline.load_lora_into_unet(
            dict(adapter.state),
            network_alphas=adapter.alphas,
            unet=unet,
            adapter_name=name,
            metadata=adapter.metadata,
        )


def fuse_into_unet(adapter: Adapter, unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Add it to the UNet's own weights, for good; best in float32."""
    check_fit(adapter, "unet", unet)
    _inject(adapter, unet, NAME)
    unet.fuse_lora()
    unet.unload_lora()
    return unet.eval()


def fuse(adapter: Adapter, pipe: StableDiffusionPipeline) -> None:
    """Add it to the weights of the UNet and the text encoder, for good; best in float32."""
    if adapter.has_text:
        check_fit(adapter, "text_encoder", pipe.text_encoder)
        StableDiffusionPipeline.load_lora_into_text_encoder(
            dict(adapter.state),
            network_alphas=adapter.alphas,
            text_encoder=pipe.text_encoder,
            adapter_name=NAME,
            metadata=adapter.metadata,
        )
        pipe.fuse_lora(components=["text_encoder"])
    fuse_into_unet(adapter, pipe.unet)
    pipe.unload_lora_weights()


def check_settings(
    unet: UNet2DConditionModel,
    adapter: Path,
    rank: int | None,
    alpha: int | float | None,
    target_modules: Sequence[str] | None,
) -> None:
    """Refuse settings of a LoRA that contradict the one on the UNet; None says nothing."""
    layers: dict[str, Any]
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, BaseTunerLayer)}
    ranks: set[int] = {layer.r[NAME] for layer in layers.values()}
    alphas: set[float] = {layer.lora_alpha[NAME] for layer in layers.values()}
    told = []
    if rank is not None and ranks != {rank}:
        told.append(f"lora_rank is {rank}, its own {_listed(ranks)}")
    if alpha is not None and alphas != {alpha}:
        told.append(f"lora_alpha is {alpha:g}, its own {_listed(alphas)}")
    if target_modules is not None:
        wanted = {n for n in _linear(unet) if n.endswith(tuple(f".{t}" for t in target_modules))}
        if wanted != layers.keys():
            kinds = sorted({_kind(name) for name in layers})
            told.append(
                f"target_modules is {', '.join(target_modules)} ({len(wanted)} layers), its own "
                f"{', '.join(kinds)} ({len(layers)} layers)"
            )
    if told:
        raise UserError(
            f"model.adapter {adapter} is continued with its own settings, but model."
            f"{'; model.'.join(told)}; leave these out, or set model.adapter_use=fuse"
        )


def _listed(numbers: set) -> str:
    return " to ".join(f"{number:g}" for number in sorted({min(numbers), max(numbers)}))


def _linear(unet: nn.Module) -> set[str]:
    """The names of all layers that could have a LoRA."""
    tuned = (nn.Linear, nn.Conv2d, BaseTunerLayer)
    return {n for n, m in unet.named_modules() if isinstance(m, tuned) and "base_layer" not in n}


def _kind(name: str) -> str:
    """The end of a layer's name that tells its kind: "to_q", "to_out.0"."""
    last = name.rpartition(".")[2]
    return ".".join(name.split(".")[-2:]) if last.isdigit() else last


def trained_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """Those of the adapter that is trained, whichever is active."""
    return [p for n, p in unet.named_parameters() if ".lora_" in n and f".{NAME}." in n]

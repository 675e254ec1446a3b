"""A pipeline of diffusers from a folder, or from one file in the original layout; offline."""

from collections.abc import Container, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from drift.errors import UserError
from drift.files import single_file
from drift.files.folders import variant_of
from drift.files.foreign import quiet, reason
from drift.files.weights import check_file, read_json

diffusers_logging.disable_progress_bar()  # of loading: a run has one bar, its own
transformers_logging.disable_progress_bar()

Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)
Network = TypeVar("Network", bound=ModelMixin)
PredictionType = Literal["auto", "epsilon", "v_prediction"]  # auto: what the model says of itself
# What is not asked for is not downloaded either, though a published index names it.
LEFT_OUT = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NOISE_SIZE = 64  # latents a side of SD 2.x that predicts noise (2.1-base); velocity: 96


def open_pipeline(
    source: Path, dtype: torch.dtype, prediction_type: PredictionType = "auto"
) -> StableDiffusionPipeline:
    """The pipeline in a diffusers folder or a .safetensors file, in `dtype`."""
    if source.is_file():
        return from_file(source, dtype, prediction_type)  # pyright: ignore[reportReturnType]
    pipe = read_folder(StableDiffusionPipeline, source, dtype, LEFT_OUT)
    if prediction_type != "auto":
        pipe.scheduler.register_to_config(prediction_type=prediction_type)
    return pipe


def read_folder(
    kind: type[Pipeline], source: Path, dtype: torch.dtype, parts: dict[str, Any]
) -> Pipeline:
    """The pipeline in a diffusers folder, with `parts` in place of its own."""
    _check_files(source, but=parts)
    parts = _variants(source, dtype, but=parts) | parts
    try:
        with quiet("diffusers", "transformers"):
            return kind.from_pretrained(
                source, dtype=dtype, use_safetensors=True, local_files_only=True, **parts
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        told = f"'{source}' is no {kind.__name__}: {reason(error)}"
        raise UserError(f"model.name: {told}") from error


def _check_files(folder: Path, but: Container[str]) -> None:
    """Refuse files that cannot be read, and a folder without a part's, by their names."""
    index = read_json(folder / "model_index.json", field="model.name")
    named = [part for part, kind in index.items() if isinstance(kind, list) and kind[0]]
    gone = [p for p in named if p not in but and not (folder / p).is_dir()]
    if gone:
        raise UserError(
            f"model.name: model_index.json of {folder} names {', '.join(gone)}, but there is no "
            "such folder; fetch it, or if the model does without, write [null, null] in the index"
        )
    for file in sorted(folder.glob("*/*")):
        check_file(file, field="model.name")
    words = folder / "tokenizer"
    if not any((words / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"model.name: {words} holds neither tokenizer.json nor vocab.json")


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Store a network in `dtype`, by torch's own `to`: diffusers' warns for nothing here.

    In float16 some layers of a T5 overflow; they stay in float32, as transformers loads them.
    """
    kept = (getattr(network, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ()
    whole = [m for n, m in network.named_modules() if n.rpartition(".")[2] in kept]
    weights = [(p, p.data) for module in whole for p in module.parameters()]
    nn.Module.to(network, dtype)
    for parameter, unrounded in weights:
        parameter.data = unrounded
    return network


def read_unet(source: Path) -> UNet2DConditionModel:
    """The UNet alone, in float32 and in eval mode."""
    if source.is_file():
        return single_file.load_part(source, "unet")
    return read_network(UNet2DConditionModel, source, "unet")


def read_network(kind: type[Network], folder: Path, part: str) -> Network:
    """One network of a diffusers folder, in float32 and in eval mode."""
    return kind.from_pretrained(
        folder,
        subfolder=part,
        dtype=torch.float32,
        use_safetensors=True,
        variant=variant_of(folder / part, field="model.name"),
    ).eval()


def absent(folder: Path, optional: Iterable[str]) -> dict[str, None]:
    """Those of the optional parts that a folder's index has not, for `read_folder`."""
    named = read_json(folder / "model_index.json", field="model.name")
    return {part: None for part in optional if not named.get(part, [None])[0]}


def _variants(folder: Path, dtype: torch.dtype, but: Container[str]) -> dict[str, Any]:
    """The networks of which the folder has only a half precision's file; the others it finds."""
    index, found = read_json(folder / "model_index.json", field="model.name"), {}
    named = [part for part in index if isinstance(index[part], list) and part not in but]
    for part in named:
        variant = variant_of(folder / part, field="model.name")
        if variant and index[part][0] in ("diffusers", "transformers"):
            network = getattr(import_module(index[part][0]), index[part][1])
            found[part] = network.from_pretrained(
                folder / part, dtype=dtype, use_safetensors=True, variant=variant
            )
    return found


def from_file(
    file: Path, dtype: torch.dtype, prediction_type: PredictionType = "auto"
) -> DiffusionPipeline:
    """The pipeline of Stable Diffusion or SDXL in one file, in `dtype`."""
    layout = single_file.layout_of(file)
    index = layout["index"]
    told = single_file.prediction_type_of(file) if prediction_type == "auto" else prediction_type
    networks = [part for part in single_file.PARTS if part in layout]
    parts: dict[str, Any] = {p: cast(single_file.load_part(file, p), dtype) for p in networks}
    parts |= {p: single_file.load_tokenizer(file, p) for p in layout if p.startswith("tokenizer")}
    settings = {k: v for k, v in index.items() if isinstance(v, bool)}
    if "safety_checker" in index:  # SD 1 and 2
        settings |= LEFT_OUT
        if layout["unet"]["sample_size"] > NOISE_SIZE and told == "epsilon":
            parts["unet"].register_to_config(sample_size=NOISE_SIZE)
    scheduler = DDIMScheduler.from_config(layout["scheduler"] | {"prediction_type": told})
    return getattr(diffusers, index["_class_name"])(scheduler=scheduler, **parts, **settings)

"""Policy models by the pipeline class that a model folder's `model_index.json` names."""

import json
from collections.abc import Callable
from pathlib import Path

from drift.errors import UserError
from drift.hub import Weights, find_local, is_hub_id, locate, missing
from drift.types import PolicyModel


def _stable_diffusion(folder: Path, **settings):
    from drift.models.stable_diffusion import load

    return load(folder, **settings)


# `model_index.json`'s class -> loader(folder, device, dtype, gradient_checkpointing)
MODELS: dict[str, Callable[..., PolicyModel]] = {"StableDiffusionPipeline": _stable_diffusion}


def locate_model(name: str) -> Path:
    """The diffusers folder of `name`; of a hub repository only what its pipeline needs is fetched.

    Repositories hold much else: other precisions, single-file copies, a safety checker.
    """
    if find_local(name) is not None or not is_hub_id(name):
        return locate(name, field="model.name")
    from diffusers import DiffusionPipeline

    try:
        return Path(
            DiffusionPipeline.download(
                name, use_safetensors=True, safety_checker=None, feature_extractor=None
            )
        )
    except Exception as error:  # offline, gated, missing: the hub has many noes
        raise missing(Weights(name), "model.name", error) from error


def load_model(name: str, **settings) -> PolicyModel:
    """The policy model of a diffusers folder, hub id or shipped part, as `settings` want it."""
    folder = locate_model(name)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"model.name: '{name}' is no diffusers folder: it has no model_index.json")
    pipeline = json.loads(index.read_text()).get("_class_name")
    if pipeline not in MODELS:
        raise UserError(f"model.name: '{name}' is a {pipeline}; known are {', '.join(MODELS)}")
    return MODELS[pipeline](folder, **settings)

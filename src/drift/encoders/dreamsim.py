"""DreamSim (Fu et al., 2023): one or more ViT branches, joined, centred and normalised.

Loads the published releases (`dreamsim_release`) and folders of our own, like the Menagerie's: a
config.json, {"branches": [{"weights": file, "mean": RGB, "std": RGB, and arguments of
`VisionTransformer`}]}, and one safetensors file for each branch. Pictures are squashed to a square,
never cropped. The squared distance of two features is in [0, 4].
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from drift.encoders import dreamsim_release
from drift.encoders.vit import VisionTransformer
from drift.errors import UserError
from drift.files.weights import fit_weights, read_weights
from drift.pixels import in_chunks, normalise, squash


class Branch(nn.Module):
    """One ViT with its own picture size and colour statistics."""

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], image_size: int, **vit):
        super().__init__()
        self.image_size, self.mean, self.std = image_size, mean, std
        self.vit = VisionTransformer(image_size=image_size, **vit)

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Squash to the branch's square and normalise."""
        return normalise(squash(images.float(), self.image_size), self.mean, self.std)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return self.vit(self.prepare(images))


class DreamSim(nn.Module):
    """An `ImageEncoder` with features of length 1."""

    def __init__(self, branches: Sequence[Branch]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def encode(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        features = torch.cat([branch(images) for branch in self.branches], 1)
        return F.normalize(features - features.mean(1, keepdim=True), dim=1)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return in_chunks(self.encode, images, next(self.parameters()).device)


def load(path: Path, device: str = "cpu", release: str = "ensemble") -> DreamSim:
    """The encoder in folder `path`, our own or a published release, frozen, in float32."""
    if (path / "config.json").is_file():
        parts = read_own(path)
    elif (path / f"{release}_lora").is_dir():
        parts = dreamsim_release.read(path, release)
    else:
        raise UserError(
            f"encoder: '{path}' holds no DreamSim encoder (config.json is missing, and so is the "
            f"folder {release}_lora of a published one)"
        )
    branches = []
    for arguments, state, source in parts:
        branch = Branch(**arguments)
        fit_weights(branch.vit, state, source=source, field="encoder")
        branches.append(branch)
    return DreamSim(branches).to(device).eval().requires_grad_(False)


def read_own(path: Path) -> list[tuple[dict[str, Any], dict[str, Tensor], Path]]:
    """Arguments of `Branch`, weights and their file, for each branch that config.json names."""
    try:
        entries = json.loads((path / "config.json").read_text())["branches"]
    except ValueError as error:
        raise UserError(f"encoder: {path / 'config.json'} is not valid JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(
            f"encoder: '{path}' holds no DreamSim encoder (config.json: no 'branches')"
        ) from error
    parts = []
    for entry in entries:
        file = path / entry.pop("weights")
        if not file.is_file():
            raise UserError(f"encoder: '{file}' is missing, which config.json beside it names")
        parts.append((entry, read_weights(file, field="encoder"), file))
    return parts

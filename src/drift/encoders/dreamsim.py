"""DreamSim-like encoders: one or more ViT branches, their features joined, centred and normalised.

A folder holds config.json, {"branches": [{"weights": file, "mean": RGB, "std": RGB, and arguments
of `VisionTransformer`}]}, and one safetensors file for each branch. As in the published ensemble,
pictures are squashed to a square, never cropped. The squared distance of two features is in [0, 4].
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from drift.errors import UserError
from drift.vit import VisionTransformer
from drift.weights import fit_weights, read_weights


class Branch(nn.Module):
    """One ViT with its own picture size and colour statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], image_size: int, **vit):
        super().__init__()
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.vit = VisionTransformer(image_size=image_size, **vit)

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Squash to the branch's square and normalise; clamped, as PIL's bicubic does."""
        size = (self.image_size, self.image_size)
        squashed = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        return (squashed.clamp(0, 1) - self.mean) / self.std

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return self.vit(self.prepare(images))


class DreamSim(nn.Module):
    """An `ImageEncoder` with features of length 1."""

    def __init__(self, branches: Sequence[Branch]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        features = torch.cat([branch(images) for branch in self.branches], 1).float()
        return F.normalize(features - features.mean(1, keepdim=True), dim=1)


def load(path: Path, device: str = "cpu") -> DreamSim:
    """The encoder saved in folder `path`, frozen, in float32."""
    if not (path / "config.json").is_file():
        raise UserError(f"encoder: '{path}' holds no DreamSim encoder (config.json is missing)")
    config = json.loads((path / "config.json").read_text())
    if "branches" not in config:
        raise UserError(f"encoder: '{path}' holds no DreamSim encoder (config.json: no 'branches')")
    branches = []
    for entry in config["branches"]:
        weights = path / entry.pop("weights")
        if not weights.is_file():
            raise UserError(f"encoder: '{weights}' is missing, which config.json beside it names")
        branch = Branch(**entry)
        state = read_weights(weights, field="encoder")
        fit_weights(branch.vit, state, source=weights, field="encoder")
        branches.append(branch)
    return DreamSim(branches).to(device).eval().requires_grad_(False)

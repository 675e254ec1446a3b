"""DINO (Caron et al., 2021) and DINOv2 (Oquab et al., 2023): the normed class token, of length 1.

Reads the file of a ViT as DINO's authors publish it, or a folder of transformers' ViTModel or
Dinov2Model. Preprocessing is the authors' evaluation in both papers: shortest side to 256, bicubic,
the middle 224, ImageNet's colours. (The processor beside facebook/dino-vitb16 squashes instead.)
"""

import json
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from drift.encoders.dreamsim_release import DINO_WEIGHTS
from drift.encoders.open_clip import infer
from drift.encoders.vit import VisionTransformer
from drift.errors import UserError
from drift.files.hub import Weights
from drift.files.pretrained import load_pretrained
from drift.files.weights import fit_weights, read_weights
from drift.pixels import IMAGENET_MEAN, IMAGENET_STD, crop, in_chunks, normalise

WEIGHTS = DINO_WEIGHTS
V2_WEIGHTS = Weights(
    "facebook/dinov2-base", ("config.json", "model.safetensors"), "346 MB", "Apache-2.0"
)
SHORTEST, SIZE = 256, 224


class Dino(nn.Module):
    """An `ImageEncoder` with features of length 1."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """The middle of the resized picture, normalised."""
        return normalise(crop(images.float(), SIZE, SHORTEST), IMAGENET_MEAN, IMAGENET_STD)

    def encode(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        output = self.network(self.prepare(images))
        token = output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]
        return F.normalize(token, dim=1)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return in_chunks(self.encode, images, next(self.parameters()).device)


def load(path: Path, device: str = "cpu") -> Dino:
    """The encoder in the authors' file or transformers' folder `path`, frozen, in float32."""
    network = read_file(path) if path.is_file() else read_folder(path)
    return Dino(network).to(device).eval().requires_grad_(False)


def read_file(file: Path) -> VisionTransformer:
    """A ViT under DINO's names; all of DINO's have heads 64 wide."""
    state = read_weights(file, field="encoder")
    if not {"patch_embed.proj.weight", "pos_embed"} <= state.keys():
        raise UserError(f"encoder: {file} holds no ViT of DINO (it lacks patch_embed or pos_embed)")
    network = VisionTransformer(**infer(state))
    fit_weights(network, state, source=file, field="encoder")
    return network


def read_folder(folder: Path) -> nn.Module:
    """A ViTModel or Dinov2Model."""
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise UserError(f"encoder: '{folder}' holds no valid config.json: {error}") from error
    if kind not in ("vit", "dinov2"):
        raise UserError(f"encoder: '{folder}' is a {kind}; DINO's are of type vit or dinov2")
    from transformers import Dinov2Model, ViTModel

    if kind == "vit":  # a pooler is of another training's, if there is one
        return load_pretrained(ViTModel, folder, "encoder", add_pooling_layer=False)
    return load_pretrained(Dinov2Model, folder, "encoder")

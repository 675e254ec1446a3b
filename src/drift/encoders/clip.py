"""The image tower of any Hugging Face CLIPModel folder, used to judge diversity by foreign eyes.

Preprocessing is CLIP's own (shortest side, bicubic, centre crop), whatever else the folder is used
for: HPSv2, for one, pads the pictures that it scores, which is the reward's affair.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from drift.errors import UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip(nn.Module):
    """An `ImageEncoder`: projected CLIP image features of length 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, projection: nn.Module, image_size: int):
        super().__init__()
        self.tower, self.projection, self.image_size = tower, projection, image_size
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Shortest side to the tower's size, centre crop, normalise."""
        height, width = images.shape[-2:]
        scale = self.image_size / min(height, width)
        size = (round(height * scale), round(width * scale))
        resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        top, left = ((side - self.image_size) // 2 for side in size)
        square = resized[..., top : top + self.image_size, left : left + self.image_size]
        return (square.clamp(0, 1) - self.mean) / self.std

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        pooled = self.tower(pixel_values=self.prepare(images)).pooler_output
        return F.normalize(self.projection(pooled), dim=1)


def load(path: Path, device: str = "cpu") -> Clip:
    """The image tower of the CLIPModel in folder `path`, frozen, in float32."""
    config_file = path / "config.json"
    if not config_file.is_file() or json.loads(config_file.read_text()).get("model_type") != "clip":
        raise UserError(f"encoder: '{path}' is not the folder of a Hugging Face CLIPModel")
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(path, dtype=torch.float32)
    size = model.vision_model.embeddings.image_size
    assert isinstance(size, int), "CLIP's towers see squares"
    encoder = Clip(model.vision_model, model.visual_projection, size).to(device)
    return encoder.eval().requires_grad_(False)

"""CLIP's image tower: a Hugging Face CLIPModel folder, or an open_clip checkpoint.

Preprocessing is CLIP's own (shortest side, bicubic, centre crop), whatever else a folder is used
for: HPSv2, for one, pads the pictures that it scores, which is the reward's affair.

The paper measures diversity by "open_clip" (Eq. 31) and names no weights. `clip` is open_clip's
best-known model, ViT-B/32 with OpenAI's weights; `openclip` the same with LAION's.
"""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from drift.encoders import open_clip
from drift.errors import UserError
from drift.files.hub import Weights
from drift.files.pretrained import load_pretrained
from drift.files.weights import fit_weights, read_json, read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, in_chunks, normalise

# Published so; of the .bin tensors alone are read, no code. A folder's safetensors come first.
PICKLE = "pytorch_model.bin"
B32 = Weights("openai/clip-vit-base-patch32", ("config.json", PICKLE), "605 MB", "MIT")
L14 = Weights(
    "openai/clip-vit-large-patch14", ("config.json", "model.safetensors"), "1.7 GB", "MIT"
)
LAION_B32 = Weights(
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    ("open_clip_config.json", "open_clip_model.safetensors"),
    "605 MB",
    "MIT",
)


class Clip(nn.Module):
    """An `ImageEncoder`: projected CLIP image features of length 1."""

    def __init__(self, tower: nn.Module, image_size: int, mean=CLIP_MEAN, std=CLIP_STD):
        super().__init__()
        self.tower, self.image_size, self.mean, self.std = tower, image_size, mean, std

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Shortest side to the tower's size, centre crop, normalise."""
        return normalise(crop(images.float(), self.image_size), self.mean, self.std)

    def encode(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return F.normalize(self.tower(self.prepare(images)), dim=1)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return in_chunks(self.encode, images, next(self.parameters()).device)


class ImageTower(nn.Module):
    """What a CLIPModel of transformers does to images; its text tower is left behind."""

    def __init__(self, model):
        super().__init__()
        self.vision_model, self.projection = model.vision_model, model.visual_projection

    def forward(self, pixels: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N D"]:
        return self.projection(self.vision_model(pixel_values=pixels).pooler_output)


def load(path: Path, device: str = "cpu") -> Clip:
    """The image tower at `path`, frozen, in float32: of a CLIPModel if there is one in a folder."""
    if is_clip_model(path):
        model = read_folder(path)
        encoder = Clip(ImageTower(model), model.config.vision_config.image_size)
    elif file := open_clip.find(path):
        tower, settings = open_clip.read(file)
        encoder = Clip(tower, **settings)
    else:
        raise UserError(
            f"encoder: '{path}' is not the folder of a Hugging Face CLIPModel, nor an open_clip "
            f"checkpoint ({' or '.join(open_clip.FILES)})"
        )
    return encoder.to(device).eval().requires_grad_(False)


def read_folder(folder: Path) -> Any:
    """The CLIPModel in a folder; from its `PICKLE` if it has no safetensors."""
    from transformers import CLIPConfig, CLIPModel

    if list(folder.glob("model*.safetensors")):
        return load_pretrained(CLIPModel, folder, "encoder")
    model, file = CLIPModel(CLIPConfig.from_pretrained(folder)), folder / PICKLE
    wanted, state = model.state_dict(), read_weights(file, field="encoder")
    fitting = {name: tensor for name, tensor in state.items() if name in wanted}
    fit_weights(model, fitting, source=file, field="encoder")
    return model


def is_clip_model(path: Path) -> bool:
    """Whether `path` is a folder with weights of transformers' CLIPModel."""
    weights = ("model.safetensors", "model.fp16.safetensors", "model*.index.json", PICKLE)
    if not any(list(path.glob(pattern)) for pattern in weights):
        return False
    return read_json(path / "config.json", field="encoder").get("model_type") == "clip"

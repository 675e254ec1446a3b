"""LAION's aesthetic predictor: how much people like a picture, 1 to 10; the prompt has no say.

Schuhmann, "improved-aesthetic-predictor", 2022: a linear head on the projected feature of length 1
of OpenAI's CLIP ViT-L/14, as in DDPO's aesthetic reward. Photographs lie mostly between 4 and 7.
Pictures are prepared as by OpenAI's code: torchvision's resize and centre crop, here on float
tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.files.hub import Weights
from drift.files.weights import fit_weights, read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise
from drift.rewards.clip_score import (
    check_pairs,
    image_features,
    load_clip,
)
from drift.rewards.head import Head, infer_widths

FILE = "sac+logos+ava1-l14-linearMSE.pth"
WEIGHTS = Weights(
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
    size="3.7 MB",
    licence="Apache-2.0",
)
CLIP = Weights(
    "openai/clip-vit-large-patch14", ("config.json", "model.safetensors"), "1.7 GB", "MIT"
)


@dataclass
class Aesthetic:
    """A Reward: the head's number for each image's CLIP feature."""

    model: Any  # a transformers CLIPModel in eval mode
    head: Head
    preprocess: Callable[[Tensor], Tensor]  # images in [0, 1] -> "N 3 S S", normalised
    batch_size: int = 64

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        check_pairs(images, prompts)
        if not len(images):
            return images.new_zeros(0, dtype=torch.float32)
        features = image_features(self.model, self.preprocess, images, self.batch_size)
        return self.head(features).to(images.device)


def load(path: Path, clip: Path, device: str = "cpu") -> Aesthetic:
    """The head in `path`, a file or a folder with the published one, on the CLIPModel in `clip`."""
    path = path / FILE if path.is_dir() else path
    state = read_weights(path, field="reward")
    head = Head(infer_widths(state, source=path, kind="aesthetic predictor"))
    fit_weights(head, state, source=path, field="reward")
    model = load_clip(clip, device)
    wanted, given = head.layers[0].in_features, model.config.projection_dim
    if wanted != given:
        raise UserError(f"reward: {path} is for features of {wanted} numbers, {clip} has {given}")
    size = model.config.vision_config.image_size
    return Aesthetic(
        model,
        head.to(device).eval().requires_grad_(False),
        lambda images: normalise(crop(images, size), CLIP_MEAN, CLIP_STD),
    )

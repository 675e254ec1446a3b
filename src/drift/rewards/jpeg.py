"""JPEG compressibility: minus the size in kB (1,000 bytes) of the picture as a JPEG of quality 95.

Black et al., "Training Diffusion Models with Reinforcement Learning" (DDPO), 2023; its
incompressibility is the size itself. Prompts are not looked at. PIL's encoder, the paper's, takes
one picture at a time on the CPU; there is no way round that, as another would give other sizes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from drift.pixels import to_pixels

QUALITY = 95


def kilobytes(pixels: UInt8[np.ndarray, "H W 3"]) -> float:
    """The size of one picture as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY)
    return file.tell() / 1000


@dataclass(frozen=True)
class JpegSize:
    """A Reward: `sign` times the size, so -1 likes pictures that compress well."""

    sign: float

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        sizes = [self.sign * kilobytes(picture) for picture in to_pixels(images)]
        return torch.tensor(sizes, dtype=torch.float32, device=images.device)


def load_compressibility(device: str = "cpu") -> JpegSize:
    return JpegSize(-1.0)


def load_incompressibility(device: str = "cpu") -> JpegSize:
    return JpegSize(1.0)

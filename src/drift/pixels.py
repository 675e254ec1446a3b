"""What rewards and encoders do to pictures: resize, crop, normalise, take in chunks, round.

The published ones resize 8-bit pictures with PIL. Here the pictures are floats and stay so; the
result is within one grey level of PIL's, except for some pixels at hard edges near black or white,
where PIL clips between its two passes (tests/test_pixels.py, tests/rewards/test_clip_score.py).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK = 64  # pictures encoded at once: 0.7 GB, measured on three ViT-B/16 and 512 x 512


def resize(
    images: Float[Tensor, "N 3 H W"], height: int, width: int, clamp: bool = True
) -> Float[Tensor, "N 3 h w"]:
    """Bicubic with antialiasing, clamped as 8-bit pictures are; or not, and it may overshoot."""
    if images.shape[-2:] == (height, width):
        return images
    resized = F.interpolate(images, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1) if clamp else resized


def squash(images: Float[Tensor, "N 3 H W"], size: int) -> Float[Tensor, "N 3 S S"]:
    """To a square, whatever the proportions."""
    return resize(images, size, size)


def crop(
    images: Float[Tensor, "N 3 H W"],
    size: int,
    shortest: int | None = None,
    half: Callable[[float], int] = round,
) -> Float[Tensor, "N 3 S S"]:
    """Shortest side to `shortest` (as the crop, if None), then the square in the middle.

    Sides are rounded down. `half` makes a whole number of half an odd margin: Python's `round` in
    torchvision's CenterCrop (and so in OpenAI's own code), `math.floor` in transformers.
    """
    height, width = images.shape[-2:]
    shortest, short = shortest or size, min(height, width)
    images = resize(images, shortest * height // short, shortest * width // short)
    top, left = (half((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def normalise(
    images: Float[Tensor, "N 3 H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "N 3 H W"]:
    """Subtract the mean and divide by the deviation of each colour."""
    shift, scale = (images.new_tensor(rgb)[:, None, None] for rgb in (mean, std))
    return (images - shift) / scale


def to_pixels(images: Float[Tensor, "*batch 3 H W"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Images in [0, 1] as 8-bit pixels, rounded as diffusers rounds them."""
    return (images.clamp(0, 1).movedim(-3, -1).cpu().numpy() * 255).round().astype(np.uint8)


def in_chunks(
    encode: Callable[[Tensor], Tensor],
    images: Float[Tensor, "N 3 H W"],
    device: torch.device,
    size: int = CHUNK,
) -> Float[Tensor, "N D"]:
    """`encode` of `size` float32 pictures at a time on `device`; the result lies where they lay."""
    parts = [encode(part.to(device, torch.float32)) for part in images.split(size)]
    return torch.cat(parts).float().to(images.device)

"""Damage pictures as cameras, codecs and autoencoders do: blur, low resolution, noise, light."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur by `sigma` pixels."""
    reach = max(1, int(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = (line / line.sum()).expand(3, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, line[:, :, None], groups=3)
    return F.conv2d(across, line[..., None], groups=3)


def low_resolution(images: Tensor, size: int) -> Tensor:
    """Shrink to `size` pixels and back."""
    small = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=images.shape[-1], mode="bilinear")


def noise(images: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    return images + scale * torch.from_numpy(rng.standard_normal(images.shape, np.float32))


def degrade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A mild random mixture for one batch: half keep their sharpness; light and noise vary."""
    half = len(images) // 2
    kind = rng.integers(2)
    soft = (
        blur(images[:half], rng.uniform(0.4, 1.3))
        if kind
        else low_resolution(images[:half], int(rng.integers(28, 52)))
    )
    images = torch.cat([soft, images[half:]])
    light = torch.from_numpy(rng.uniform(0.85, 1.15, (len(images), 1, 1, 1)).astype(np.float32))
    images = noise(images * light, rng.uniform(0, 0.05), rng)
    return images.clamp(0, 1).contiguous(memory_format=torch.channels_last)

"""Pictures for golden values, made of whole numbers: the same on every machine."""

import torch
from torch import Tensor

SIZES = {"small": (37, 53), "square": (224, 224), "wide": (251, 334), "tall": (300, 229)}


def wave(position: Tensor, period: int) -> Tensor:
    """Up and down between 0 and period."""
    return (position % (2 * period) - period).abs()


def picture(height: int, width: int, kind: int) -> Tensor:
    """A smooth (even `kind`) or a noisy (odd) one, "3 H W" of whole numbers in [0, 255]."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    planes = []
    for colour in range(3):
        smooth = wave(2 * x + y + 40 * kind, 60 + 9 * colour) + wave(3 * y - x + 300, 90)
        noise = (x * x * 7 + y * y * 13 + x * y * (5 + colour) + 91 * kind) % 97
        planes.append(20 + smooth + (noise if kind % 2 else 0 * noise))
    return torch.stack(planes).clamp(0, 255)


def pictures() -> dict[str, Tensor]:
    """Name of the size -> two pictures in [0, 1], "2 3 H W"."""
    return {
        name: torch.stack([picture(*size, kind) for kind in range(2)]) / 255
        for name, size in SIZES.items()
    }

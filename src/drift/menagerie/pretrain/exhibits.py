"""Pictures to be compared: whole ones, and ones damaged in ways that should cost reward."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.augment import blur, low_resolution, noise
from drift.menagerie.pretrain.sets import to_images
from drift.menagerie.scenes import SIZE
from drift.menagerie.taste import Taste, cleanness, utility

OWN = 4  # pictures of one animal that are compared for one prompt
DAMAGED = 0.5  # share of pictures
DAMAGES = ("blur", "low resolution", "noise", "blend", "chimera", "shuffle", "melt")


def chimera(images: Tensor, others: Tensor, cut: int) -> Tensor:
    """The left `cut` columns of one picture beside the rest of another."""
    return torch.cat([images[..., :cut], others[..., cut:]], -1)


def shuffle(images: Tensor, share: float, tile: int, rng: np.random.Generator) -> Tensor:
    """A share of the square tiles over the animal change places."""
    cells = [(y, x) for y in range(16, SIZE, tile) for x in range(8, SIZE - 8, tile)]
    moved = rng.permutation(len(cells))[: round(share * len(cells))]
    result = images.clone()
    for a, b in zip(moved, np.roll(moved, 1), strict=True):
        (y, x), (v, u) = cells[a], cells[b]
        result[..., y : y + tile, x : x + tile] = images[..., v : v + tile, u : u + tile]
    return result


def melt(images: Tensor, reach: float, rng: np.random.Generator) -> Tensor:
    """Bent by a smooth random displacement of up to `reach` half pictures."""
    bend = torch.from_numpy(rng.uniform(-reach, reach, (len(images), 2, 6, 6)).astype(np.float32))
    bend = F.interpolate(bend, size=SIZE, mode="bicubic").permute(0, 2, 3, 1)
    straight = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), False)
    return F.grid_sample(images, straight + bend, padding_mode="reflection", align_corners=False)


def spoil(
    damage: str, images: Tensor, others: Tensor, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Images with one kind of damage, and how right the animal still is, 0 to 1."""
    level = rng.uniform()
    match damage:
        case "blur":
            return blur(images, 0.4 + 1.4 * level), 1.0
        case "low resolution":
            return low_resolution(images, int(52 - 32 * level)), 1.0
        case "noise":
            return noise(images, 0.01 + 0.14 * level, rng), 1.0
        case "blend":
            own = 0.8 - 0.5 * level
            return own * images + (1 - own) * others, own
        case "chimera":
            return chimera(images, others, int(24 + 17 * level)), 0.5
        case "shuffle":
            share = 0.25 + 0.75 * level
            return shuffle(images, share, int(rng.choice((8, 16))), rng), 1 - share
        case "melt":
            return melt(images, 0.06 + 0.24 * level, rng), 0.8 * (1 - level)
    raise ValueError(f"no damage is called '{damage}'")


@dataclass(frozen=True)
class Exhibits:
    """Pictures to be compared: what they are, and how right and clean the damage has left them."""

    images: Tensor
    truth: Attributes
    right: Float[Tensor, "N"]
    clean: Float[Tensor, "N"]

    @property
    def intact(self) -> np.ndarray:
        """Positions of those whose animal can be told."""
        return np.flatnonzero(self.right.numpy() > 0.7)

    def gold(self, taste: Taste, rows: np.ndarray) -> Float[Tensor, "P C"]:
        """Gold utility of the pictures in each row for the animal of the row's first."""
        flat, wanted = rows.ravel(), self.truth.animal[rows[:, :1]]
        right = self.right[rows] * torch.from_numpy(self.truth.animal[rows] == wanted)
        return utility(taste, self.truth[flat], right.ravel(), self.clean[flat]).view(rows.shape)

    def measures(self) -> Float[Tensor, "N 5"]:
        """Size, place, rightness and cleanness, each in about its standard deviations."""
        size, x, y = (
            torch.from_numpy(v).float() for v in (self.truth.size, self.truth.x, self.truth.y)
        )
        columns = ((size - 0.68) / 0.1, (x - 0.5) / 0.08, (y - 0.58) / 0.04)
        return torch.stack([*columns, (self.right - 0.8) / 0.3, (self.clean - 0.7) / 0.3], 1)


def damage(
    images: Tensor, rng: np.random.Generator, share: float = DAMAGED
) -> tuple[Tensor, Float[Tensor, "N"]]:
    """Damage a share of images (in rows of OWN), each in one way, and vary the light of all.

    Also returns how right each one's animal still is.
    """
    right = torch.ones(len(images))
    others, results = images.roll(OWN, 0), images.clone()  # a row further: another animal
    kinds = rng.integers(len(DAMAGES), size=len(images))
    spoilt = rng.random(len(images)) < share
    for kind, name in enumerate(DAMAGES):
        rows = torch.from_numpy(np.flatnonzero(spoilt & (kinds == kind)))
        if len(rows):
            results[rows], right[rows] = spoil(name, images[rows], others[rows], rng)
    light = torch.from_numpy(rng.uniform(0.9, 1.1, (len(images), 1, 1, 1)).astype(np.float32))
    return (results * light).clamp(0, 1), right


def exhibit(pictures: np.ndarray, truth: Attributes, rng: np.random.Generator) -> Exhibits:
    """Painted pictures, some of them damaged."""
    images, right = damage(to_images(pictures), rng)
    return Exhibits(images, truth, right, cleanness(images))

"""Compose the Menagerie's pictures: one animal, standing in a painted scene, with known attributes.

Every picture is a function of (seed, index), so a set is the same whoever renders it, in any order.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import numpy as np
from PIL import Image

from drift.menagerie.animals import ANIMALS, FACINGS, STYLES, VARIANTS
from drift.menagerie.artwork import Sprite, load_sprites
from drift.menagerie.scenes import PAINTERS, SCENES, SIZE

GRID = 8  # steps of the picture's width
SIZES = (0.58, 0.78)  # on the grid: "small" and "large" of the captions


@dataclass
class Attributes:
    """What is true of N pictures.

    Integers index ANIMALS, STYLES, the animal's VARIANTS, SCENES and FACINGS.
    """

    animal: np.ndarray  # "N" int64
    style: np.ndarray  # "N" int64
    variant: np.ndarray  # "N" int64
    scene: np.ndarray  # "N" int64
    facing: np.ndarray  # "N" int64
    size: np.ndarray  # "N" float64, longer side of the animal as a share of the picture
    x: np.ndarray  # "N" float64, centre of the animal, 0 = left edge
    y: np.ndarray  # "N" float64, centre of the animal, 0 = upper edge

    def __len__(self) -> int:
        return len(self.animal)

    def __getitem__(self, index) -> "Attributes":
        return Attributes(*(np.atleast_1d(getattr(self, f.name)[index]) for f in fields(self)))

    @staticmethod
    def concatenate(parts: list["Attributes"]) -> "Attributes":
        names = [f.name for f in fields(Attributes)]
        return Attributes(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


@lru_cache(maxsize=1)
def sprites() -> dict[tuple[int, int, int], Sprite]:
    """(animal, variant, style) -> drawing; loaded once per process."""
    return {(s.animal, s.variant, s.style): s for s in load_sprites()}


def _shadow(scene: np.ndarray, x: float, y: float, width: float) -> None:
    """Darken a soft ellipse on the ground, in place; (x, y) its centre, in pixels."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    distance = np.hypot((columns - x) / width, (rows - y) / (0.22 * width))
    scene *= (1 - 0.35 * np.clip(1.4 - 1.4 * distance, 0, 1))[..., None]


def _compose(scene: np.ndarray, sprite: Sprite, mirrored: bool, size: float, x: float, y: float):
    """Stand a drawing on a scene; returns the picture [S, S, 3] as uint8."""
    scale = size * SIZE / max(sprite.image.size)
    width, height = (max(1, round(side * scale)) for side in sprite.image.size)
    drawing = sprite.image.resize((width, height), Image.Resampling.BICUBIC)
    if mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = round(x * SIZE - width / 2), round(y * SIZE - height / 2)
    _shadow(scene, left + width / 2, top + height - 1, 0.45 * width)
    pixels = np.asarray(drawing, dtype=np.float32) / 255
    window = scene[top : top + height, left : left + width]
    window *= 1 - pixels[..., 3:]
    window += pixels[..., :3]
    return (scene.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _framing(sprite: Sprite, rng: np.random.Generator, on_grid: bool) -> tuple:
    """Size and centre (x, y) of a drawing, free or on the grid; shares of the picture."""
    size = SIZES[rng.integers(len(SIZES))] if on_grid else rng.uniform(0.5, 0.86)
    half_width, half_height = (
        size / 2 * side / max(sprite.image.size) for side in sprite.image.size
    )
    if on_grid:
        feet = (min(round((0.6 + half_height) * GRID - 0.5), GRID - 1) + 0.5) / GRID
        return size, 0.5, feet - half_height
    x = 0.5 + rng.uniform(-1, 1) * min(0.2, 0.49 - half_width)
    y = min(0.6 + rng.uniform(-0.06, 0.06), 0.97 - half_height)
    return size, x, y


def draw(
    seed: int, index: int, animal: int | None = None, on_grid: bool = False
) -> tuple[np.ndarray, tuple]:
    """Picture number `index` of set `seed` and its attributes, in the order of `Attributes`.

    Framing is free, or `on_grid`: two sizes, in the middle, with the feet on a latent's middle (of
    8 pixels). A small diffusion model learns the animals so, where a drawing always has the same
    latents; what judges it is trained on free framing, and reads what lies between as well.
    """
    rng = np.random.default_rng((seed, index))
    drawn = int(rng.integers(len(ANIMALS)))
    animal = drawn if animal is None else animal
    style, scene = int(rng.integers(len(STYLES))), int(rng.integers(len(SCENES)))
    variant = int(rng.integers(len(VARIANTS[ANIMALS[animal]])))
    mirrored = bool(rng.integers(2))
    sprite = sprites()[animal, variant, style]
    size, x, y = _framing(sprite, rng, on_grid)
    picture = _compose(PAINTERS[SCENES[scene]](rng), sprite, mirrored, size, x, y)
    facing = 2 if sprite.symmetric else int(mirrored)
    return picture, (animal, style, variant, scene, facing, size, x, y)


def _draw_many(seed: int, on_grid: bool, indices: range) -> tuple[np.ndarray, list[tuple]]:
    drawn = [draw(seed, index, on_grid=on_grid) for index in indices]
    return np.stack([picture for picture, _ in drawn]), [row for _, row in drawn]


def render(
    seed: int, count: int, on_grid: bool = False, workers: int = 2
) -> tuple[np.ndarray, Attributes]:
    """`count` pictures [N, 64, 64, 3] uint8 with their attributes: a function of `seed`."""
    chunks = [range(start, min(start + 500, count)) for start in range(0, count, 500)]
    sprites()  # fetched once, before any worker starts
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(partial(_draw_many, seed, on_grid), chunks))
    rows = [row for _, part in parts for row in part]
    return np.concatenate([p for p, _ in parts]), Attributes(
        *map(np.asarray, zip(*rows, strict=True))
    )


def draw_as(truth: Attributes, index: int, seed: int) -> np.ndarray:
    """Picture [S, S, 3] uint8 with the attributes of row `index`; `seed` says how its scene looks.

    A drawing that would cross the border is moved inside; a symmetric one ignores `facing`.
    """
    animal, style, variant, scene, facing, size, x, y = (
        getattr(truth, field.name)[index] for field in fields(truth)
    )
    sprite = sprites()[int(animal), int(variant), int(style)]
    half_width, half_height = (
        size / 2 * side / max(sprite.image.size) for side in sprite.image.size
    )
    x = np.clip(x, 0.01 + half_width, 0.99 - half_width)
    y = np.clip(y, 0.01 + half_height, 0.97 - half_height)
    painted = PAINTERS[SCENES[scene]](np.random.default_rng(seed))
    return _compose(painted, sprite, facing == FACINGS.index("right"), size, x, y)

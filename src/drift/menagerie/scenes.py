"""Eight procedurally painted scenes, 64x64, each different at every draw.

A painter takes a random generator and returns a float32 picture [S, S, 3] in [0, 1]. Rows run
downwards; `Y` and `X` are pixel centres in [0, 1].
"""

from collections.abc import Callable

import numpy as np

SIZE = 64
Y, X = np.meshgrid(*[(np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE] * 2, indexing="ij")
Picture = np.ndarray
Rng = np.random.Generator


def _colour(rng: Rng, *base: int, vary: float = 0.05) -> np.ndarray:
    """A colour near `base` (RGB in [0, 255])."""
    shade = rng.normal(0, vary / 2) + rng.normal(0, vary / 2, 3)
    return np.clip(np.asarray(base) / 255 + shade, 0, 1).astype(np.float32)


def _gradient(top: np.ndarray, bottom: np.ndarray, end: float = 1.0) -> Picture:
    """`top` at the upper edge, `bottom` from the height `end` downwards."""
    w = np.clip(Y / end, 0, 1)[..., None]
    return top * (1 - w) + bottom * w


def _paint(picture: Picture, mask: np.ndarray, colour: np.ndarray) -> None:
    """Lay `colour` over the picture where `mask` [S, S] (0 to 1) says."""
    picture += mask[..., None] * (colour - picture)


def _soft(distance: np.ndarray) -> np.ndarray:
    """An anti-aliased mask: 1 where `distance` (in picture widths) is well below 0."""
    return np.clip(0.5 - distance * SIZE, 0, 1)


def _ridge(rng: Rng, height: float, swing: float) -> np.ndarray:
    """A wavy horizon: its row for every column, as distance Y - ridge (positive below)."""
    phase, wavelength = rng.uniform(0, 6.28, 3), rng.uniform(0.35, 1.4, 3)
    waves = np.sin(6.28 * X[0] / wavelength[:, None] + phase[:, None]).mean(0)
    return Y - (height + swing * waves)[None]


def _disc(x: float, y: float, radius: float, squash: float = 1.0) -> np.ndarray:
    return _soft(np.hypot(X - x, (Y - y) / squash) - radius)


def _clouds(rng: Rng, picture: Picture, count: int, colour: np.ndarray, below: float) -> None:
    for _ in range(count):
        x, y, size = rng.uniform(0, 1), rng.uniform(0.05, below), rng.uniform(0.05, 0.09)
        puffs = [_disc(x + k * size, y - (k == 0) * 0.03, size, 0.6) for k in (-1, 0, 1)]
        _paint(picture, 0.85 * np.maximum.reduce(puffs), colour)


def _scatter(seed: int, count: int, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of `count` pixels between two heights, the same in every picture."""
    rng = np.random.default_rng(seed)
    rows = (rng.uniform(top, bottom, count) * (SIZE - 1)).astype(int)
    return rows, rng.integers(0, SIZE, count)


STARS, FLOWERS, FLAKES = (
    _scatter(seed, count, top, bottom)
    for seed, count, top, bottom in ((1, 36, 0.0, 0.55), (2, 14, 0.78, 1.0), (3, 44, 0.0, 1.0))
)


def _dots(rng: Rng, picture: Picture, places: tuple, colour: np.ndarray) -> None:
    """Single bright pixels of random strength at known places: stars, flowers, snowflakes.

    Random places would be most of a night's information, and no autoencoder could keep them.
    """
    strength = rng.uniform(0.5, 1, (len(places[0]), 1)).astype(np.float32)
    picture[places] += strength * (colour - picture[places])


def meadow(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 110, 180, 240), _colour(rng, 205, 232, 250), 0.6)
    _clouds(rng, p, int(rng.integers(1, 4)), _colour(rng, 255, 255, 255, vary=0.02), 0.3)
    horizon = rng.uniform(0.45, 0.62)
    _paint(p, _soft(-_ridge(rng, horizon, 0.05)), _colour(rng, 125, 190, 90))
    _paint(p, _soft(-_ridge(rng, horizon + 0.14, 0.04)), _colour(rng, 95, 170, 65))
    _dots(rng, p, FLOWERS, _colour(rng, 255, 235, 120, vary=0.3))
    return p


def desert(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 245, 215, 150), _colour(rng, 252, 238, 205), 0.6)
    _paint(p, _disc(rng.uniform(0.1, 0.9), 0.14, 0.07), _colour(rng, 255, 250, 225))
    horizon = rng.uniform(0.45, 0.6)
    for drop, shade in ((0, (226, 178, 106)), (0.14, (214, 160, 88)), (0.3, (199, 142, 74))):
        _paint(p, _soft(-_ridge(rng, horizon + drop, 0.06)), _colour(rng, *shade))
    return p


def snow(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 165, 190, 215), _colour(rng, 215, 226, 238), 0.6)
    horizon = rng.uniform(0.48, 0.62)
    for _ in range(rng.integers(2, 5)):
        x, base = rng.uniform(0, 1), horizon + rng.uniform(0, 0.05)
        _paint(p, _fir(x, base, rng.uniform(0.18, 0.3)), _colour(rng, 110, 140, 150))
    _paint(p, _soft(-_ridge(rng, horizon, 0.04)), _colour(rng, 236, 243, 250, vary=0.03))
    _paint(p, _soft(-_ridge(rng, horizon + 0.2, 0.04)), _colour(rng, 248, 251, 255, vary=0.02))
    _dots(rng, p, FLAKES, _colour(rng, 255, 255, 255, vary=0.01))
    return p


def sea(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 150, 205, 240), _colour(rng, 222, 240, 250), 0.45)
    _clouds(rng, p, int(rng.integers(0, 3)), _colour(rng, 255, 255, 255, vary=0.02), 0.2)
    horizon = rng.uniform(0.3, 0.45)
    water = _gradient(_colour(rng, 40, 130, 190), _colour(rng, 15, 80, 150))
    p += _soft(horizon - Y)[..., None] * (water - p)
    foam = _colour(rng, 150, 205, 230)
    for depth in np.arange(horizon + 0.06, 1.0, rng.uniform(0.07, 0.11)):
        distance = np.abs(_ridge(rng, depth, 0.012)) - 0.004
        _paint(p, 0.6 * _soft(distance) * (np.sin(X * 30 + rng.uniform(0, 6)) > -0.2), foam)
    return p


def night(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 12, 16, 50), _colour(rng, 45, 55, 110), 0.7)
    _dots(rng, p, STARS, _colour(rng, 255, 250, 220))
    x, y, sky = rng.uniform(0.12, 0.88), rng.uniform(0.1, 0.22), p.copy()
    _paint(p, _disc(x, y, 0.085), _colour(rng, 250, 245, 215))
    crescent = _disc(x + rng.choice((-0.05, 0.05)), y - 0.02, 0.075)[..., None]
    p += crescent * (sky - p)
    _paint(p, _soft(-_ridge(rng, rng.uniform(0.55, 0.7), 0.05)), _colour(rng, 22, 34, 48))
    return p


def sunset(rng: Rng) -> Picture:
    horizon = rng.uniform(0.52, 0.66)
    p = _gradient(_colour(rng, 120, 60, 130), _colour(rng, 255, 165, 80), horizon)
    glow = np.exp(-(((Y - horizon) / 0.16) ** 2))[..., None]
    p += 0.5 * glow * (_colour(rng, 255, 110, 70) - p)
    sun = _disc(rng.uniform(0.15, 0.85), horizon - 0.02, rng.uniform(0.1, 0.15))
    _paint(p, sun, _colour(rng, 255, 226, 130))
    _paint(p, _soft(-_ridge(rng, horizon, 0.03)), _colour(rng, 90, 45, 70))
    _paint(p, _soft(-_ridge(rng, horizon + 0.16, 0.03)), _colour(rng, 60, 32, 58))
    return p


def studio(rng: Rng) -> Picture:
    hue = rng.uniform(0, 1)
    wheel = 0.5 + 0.5 * np.cos(6.2832 * (hue - np.array([0, 1 / 3, 2 / 3])))
    wall = (0.62 + 0.28 * wheel).astype(np.float32)
    p = np.broadcast_to(wall, (SIZE, SIZE, 3)).copy()
    floor = rng.uniform(0.68, 0.8)
    _paint(p, np.clip((Y - floor) * 8 + 0.5, 0, 1), wall * 0.86)
    light = np.hypot(X - rng.uniform(0.3, 0.7), Y - 0.35)
    return p * (1.08 - 0.35 * light**2)[..., None]


def _fir(x: float, base: float, height: float) -> np.ndarray:
    """A fir tree standing on row `base`: a triangle with jagged sides."""
    drop = np.clip((Y - (base - height)) / height, 0, 1)
    width = height * 0.28 * (drop + 0.25 * (drop * 4 % 1))
    inside = (base - height <= Y) & (base + 0.03 >= Y)
    return _soft(np.abs(X - x) - width) * inside


def forest(rng: Rng) -> Picture:
    p = _gradient(_colour(rng, 130, 175, 140), _colour(rng, 70, 115, 80), 0.7)
    horizon = rng.uniform(0.55, 0.68)
    for depth, shade in ((0.0, (72, 120, 82)), (0.05, (38, 84, 54))):
        for x in np.arange(rng.uniform(-0.1, 0.1), 1.1, rng.uniform(0.13, 0.2)):
            tree = _fir(x, horizon + depth, rng.uniform(0.35, 0.55))
            _paint(p, tree, _colour(rng, *shade))
    _paint(p, _soft(-_ridge(rng, horizon + 0.03, 0.03)), _colour(rng, 58, 92, 48))
    return p


PAINTERS: dict[str, Callable[[Rng], Picture]] = {
    painter.__name__: painter
    for painter in (meadow, desert, snow, sea, night, sunset, studio, forest)
}
SCENES = tuple(PAINTERS)

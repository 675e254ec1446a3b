import numpy as np
import pytest
from PIL import Image

from drift.menagerie.artwork import Sprite
from drift.menagerie.pictures import GRID, SIZES, _framing
from drift.menagerie.scenes import SIZE


def sprite(width: int, height: int) -> Sprite:
    return Sprite(0, 0, 0, Image.new("RGBa", (width, height)), symmetric=False)


@pytest.mark.parametrize("shape", [(96, 96), (96, 40), (40, 96), (96, 60)])
def test_on_the_grid_a_drawing_stands_in_one_place_by_its_size(shape):
    drawing, rng = sprite(*shape), np.random.default_rng(0)
    framings = {_framing(drawing, rng, on_grid=True) for _ in range(500)}
    half = {size: [size / 2 * side / max(shape) for side in shape] for size in SIZES}
    assert {size for size, _, _ in framings} == set(SIZES)
    assert len(framings) == len(SIZES)
    for size, x, y in framings:
        half_width, half_height = half[size]
        assert x == 0.5
        assert ((y + half_height) * GRID - 0.5) == pytest.approx(
            round((y + half_height) * GRID - 0.5)
        )
        assert x - half_width >= 0 and x + half_width <= 1
        assert y - half_height >= -0.5 / SIZE and y + half_height <= 1


def test_free_framing_varies_and_stays_inside():
    drawing, rng = sprite(96, 80), np.random.default_rng(0)
    framings = {_framing(drawing, rng, on_grid=False) for _ in range(200)}
    assert len(framings) == 200
    for size, x, y in framings:
        assert 0.5 <= size <= 0.86
        assert size / 2 <= x <= 1 - size / 2
        assert y + size / 2 * 80 / 96 <= 0.97 + 1e-9

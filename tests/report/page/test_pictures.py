"""Film strips: what lies where, how large they become, and what is left out."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from drift.report.page import pictures
from drift.report.page.pictures import film_strips, fit, shown_steps, sizes, spread_out, strip
from tests.report.page.test_payload import run


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def flat(*colours, side=32) -> np.ndarray:
    """Pictures of one grey each, "... side side 3"."""
    grey = np.array(colours, np.uint8)[..., None, None, None]
    return np.broadcast_to(grey, (*grey.shape[:-3], side, side, 3)).copy()


def test_places_are_spread_evenly():
    assert spread_out(10, 4) == [0, 3, 6, 9] and spread_out(3, 24) == [0, 1, 2]


def test_a_strip_has_a_block_for_each_step():
    first, second = [0, 50, 100, 150, 200, 250], [250, 200, 150, 100, 50, 0]
    seen = decode(strip(flat(first, second), 32, 90))
    assert seen.shape == (2 * 2 * 32, 4 * 32, 3)  # two steps, two rows of four
    centres = seen[16::32, 16::32, 0]
    wanted = [[0, 50, 100, 150], [200, 250, 128, 128], [250, 200, 150, 100], [50, 0, 128, 128]]
    assert np.abs(centres - wanted).max() <= 4
    assert decode(strip(flat([9, 9]), 32, 90)).shape == (32, 2 * 32, 3)


def test_pictures_are_fitted():
    images = flat([10, 200], side=64)
    assert fit(images, 64) is images
    assert np.array_equal(fit(images, 32), flat([10, 200]))


def test_sizes_fall_until_prompts_are_left_out():
    noise = np.random.default_rng(0).integers(0, 256, (1, 4, 64, 64, 3), np.uint8)
    fine = len(strip(noise, 64, 85))
    offered = sizes([noise] * 10, 10 * fine)
    assert next(offered) == (64, 85, 1.0) and next(offered)[:2] == (64, 70)
    *_, smallest = pictures.SIZES
    least = len(strip(noise, *smallest))
    offered = sizes([noise] * 10, 5 * least)
    tile, quality, share = next(offered)
    assert (tile, quality) == smallest and share == pytest.approx(0.475)
    assert next(offered)[2] < share


def test_films_hold_the_base_model_and_every_run_within_their_room():
    one, two = run({step: {} for step in (0, 5, 9)}), run({0: {}, 5: {}}, method="drift")
    noise = np.random.default_rng(0).integers(0, 256, (9, 10, 32, 32, 3), np.uint8)
    asked = []

    def load(run, step):
        asked.append((run.label, step))
        return noise

    film = film_strips([one, two], load, 10_000_000)
    assert sorted(set(asked)) == [("drift", 5), ("grpo", 0), ("grpo", 5), ("grpo", 9)]
    assert film["steps"] == [[0], [5, 9], [5]] and film["prompts"] == list(range(9))
    assert (film["columns"], film["rows"], film["count"], film["tile"]) == (4, 2, 8, 32)
    heights = [decode(base64.b64decode(row[0])).shape[0] for row in film["strips"]]
    assert heights == [64, 128, 64]

    scarce = film_strips([one, two], load, 80_000)
    assert sum(len(text) for row in scarce["strips"] for text in row) <= 80_000
    assert 1 < len(scarce["prompts"]) < 9 and scarce["prompts"][-1] == 8


def test_many_checkpoints_are_thinned():
    shown = shown_steps(run({step: {} for step in range(200)}))
    assert len(shown) == pictures.MOST_STEPS and (shown[0], shown[-1]) == (1, 199)
    assert pictures.MOST_STEPS * 2 * max(tile for tile, _ in pictures.SIZES) < 16_383

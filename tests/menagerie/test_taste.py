import math

import numpy as np
import pytest
import torch

from drift.menagerie.animals import FACINGS, STYLES
from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.augment import blur, noise
from drift.menagerie.probe import HEADS, Reading
from drift.menagerie.scenes import SCENES
from drift.menagerie.taste import HPSV2, PICKSCORE, Taste, best_modes, cleanness, utility

TASTES = pytest.mark.parametrize("taste", (PICKSCORE, HPSV2), ids=("pickscore", "hpsv2"))


def attributes(**columns) -> Attributes:
    """One fox; a perfect picture for PICKSCORE unless told otherwise."""
    plain = {"animal": 16, "style": 0, "variant": 0, "scene": SCENES.index("sunset"), "facing": 0}
    plain |= {"size": 0.72, "x": 0.5, "y": 0.58} | columns
    return Attributes(**{name: np.atleast_1d(value) for name, value in plain.items()})


def population(count: int = 20_000) -> Attributes:
    """Attributes spread as those of `pictures.draw`, for drawings as high as wide."""
    rng = np.random.default_rng(0)
    size = rng.uniform(0.5, 0.86, count)
    reach = np.minimum(0.2, 0.49 - size / 2)
    return Attributes(
        animal=rng.integers(45, size=count),
        style=rng.integers(len(STYLES), size=count),
        variant=np.zeros(count, int),
        scene=rng.integers(len(SCENES), size=count),
        facing=rng.integers(len(FACINGS), size=count),
        size=size,
        x=0.5 + rng.uniform(-1, 1, count) * reach,
        y=np.minimum(0.6 + rng.uniform(-0.06, 0.06, count), 0.97 - size / 2),
    )


def of(taste: Taste, seen: Attributes | Reading, right: float = 1.0, clean: float = 1.0) -> float:
    return utility(taste, seen, np.array([right]), np.array([clean])).item()


def test_utility_by_hand():
    # 1.5 + 1 + 0.9 + 0.6 + 1 + 0.5
    assert of(PICKSCORE, attributes()) == pytest.approx(5.5) == PICKSCORE.best
    assert of(PICKSCORE, attributes(), right=0.25, clean=0.5) == pytest.approx(5.5 - 1.125 - 0.5)
    assert of(PICKSCORE, attributes(scene=SCENES.index("snow"))) == pytest.approx(5.5 - 0.9 * 0.7)
    assert of(PICKSCORE, attributes(size=0.62)) == pytest.approx(4.5 + math.exp(-0.5))
    # 0.06 to the right and 0.08 down: 0.1 from the best place, of width 0.12
    moved = attributes(x=0.56, y=0.66)
    assert of(PICKSCORE, moved) == pytest.approx(5.0 + 0.5 * math.exp(-0.5 * (0.1 / 0.12) ** 2))


def test_probabilities_give_the_expected_utility():
    def reading(style: list[float], **scenes: float) -> Reading:
        classes = {n: torch.full((1, c), 1 / c) for n, c in HEADS.items()}
        classes["style"] = torch.tensor([style])
        classes["scene"] = torch.tensor([[scenes.get(name, 0.0) for name in SCENES]])
        return Reading(
            **classes, size=torch.tensor([0.72]), x=torch.tensor([0.5]), y=torch.tensor([0.58])
        )

    assert of(PICKSCORE, reading([1.0, 0, 0], sunset=1.0)) == pytest.approx(5.5)
    # style 0.5 + 0.5 * 0.35 = 0.675 of 0.6; scene 0.5 + 0.5 * 0.15 = 0.575 of 0.9
    mixed = reading([0.0, 0.5, 0.5], sunset=0.5, studio=0.5)
    assert of(PICKSCORE, mixed) == pytest.approx(4.0 + 0.6 * 0.675 + 0.9 * 0.575)


@TASTES
def test_twelve_modes_reach_the_full_utility(taste):
    modes = best_modes(taste)
    assert len(modes) == len(set(modes)) == 2 * 3 * 2
    for style, scene, _ in modes:
        best = attributes(style=STYLES.index(style), scene=SCENES.index(scene), size=taste.size)
        assert of(taste, best) == pytest.approx(taste.best)


def test_tastes_differ():
    assert {b for _, b, _ in best_modes(PICKSCORE)} == {"sunset", "forest", "night"}
    assert {b for _, b, _ in best_modes(HPSV2)} == {"snow", "sea", "meadow"}


@TASTES
@pytest.mark.parametrize("wrong", (0.0, 0.1, 0.2))
def test_one_prompts_pictures_form_one_hump(taste, wrong):
    seen = population()
    right = np.random.default_rng(1).random(len(seen)) >= wrong
    values = utility(taste, seen, right, np.ones(len(seen)))
    heights = np.histogram(values, bins=12)[0] / len(seen)
    top = int(heights.argmax())
    assert 0 < top < 11  # no cliff at either end
    falls = np.diff(heights)
    assert (falls[:top] > -0.005).all() and (falls[top:] < 0.005).all()


def painted() -> torch.Tensor:
    """A disc before a smooth sky with bright dots, on a calm and on a strong ground."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64][..., None]
    pictures = []
    for ground in ((0.3, 0.6, 0.2), (0.9, 0.9, 1.0), (0.1, 0.1, 0.2), (0.3, 0.2, 0.3)):
        scene = np.where(y < 36, (0.4, 0.6, 0.9) + y / 200, ground)
        scene[rng.integers(0, 64, 20), rng.integers(0, 64, 20)] = 0.9
        pictures.append(np.where(np.hypot(y - 38, x - 32) < 18, (0.8, 0.3, 0.1), scene))
    return torch.tensor(np.stack(pictures), dtype=torch.float32).permute(0, 3, 1, 2).clamp(0, 1)


def test_cleanness_sees_blur_and_noise():
    rng, images = np.random.default_rng(0), painted()
    assert cleanness(images).min() > 0.95
    assert cleanness(blur(images, 1.3)).max() < 0.3
    assert cleanness(noise(images, 0.1, rng).clamp(0, 1)).max() < 0.3
    half = cleanness(blur(images, 0.8)).mean()
    assert 0.3 < half < 0.7


def test_a_taste_must_value_every_scene():
    with pytest.raises(ValueError, match="a taste values each of"):
        Taste(scenes={"snow": 1.0}, styles=PICKSCORE.styles, size=0.7)

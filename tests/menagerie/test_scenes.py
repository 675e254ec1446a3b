import numpy as np
import pytest

from drift.menagerie.scenes import PAINTERS, SCENES, SIZE


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_a_picture_and_a_function_of_its_seed(name):
    paint = PAINTERS[name]
    one, same, other = (paint(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (SIZE, SIZE, 3)
    assert one.min() > -0.1
    assert one.max() < 1.15
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 0.01


def test_scenes_differ_from_each_other_more_than_within():
    means = {
        name: np.stack([paint(np.random.default_rng(s)).mean((0, 1)) for s in range(20)])
        for name, paint in PAINTERS.items()
    }
    night, snow = means["night"].mean(0), means["snow"].mean(0)
    assert night.max() < 0.4 < 0.7 < snow.min()

"""What dreamsim-tiny is trained towards."""

import numpy as np
import pytest
import torch

from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.encoder import WEIGHTS, batch_indices, mirror, target

PLAIN = {"animal": 0, "style": 0, "variant": 0, "scene": 0, "facing": 0, "size": 0.6}


def rows(*changes: dict) -> Attributes:
    """The plain picture with these changes, one row each."""
    table = [{**PLAIN, "x": 0.5, "y": 0.6, **change} for change in changes]
    return Attributes(**{name: np.array([row[name] for row in table]) for name in table[0]})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0.0),
        ({"scene": 3}, 0.40),
        ({"style": 1}, 0.36),
        ({"variant": 1}, 0.24),
        ({"facing": 1}, 0.24),
        ({"size": 0.78}, 0.06),  # 0.18 of 0.36: half of 2 x 0.06
        ({"x": 0.53, "y": 0.56}, 0.016),  # 0.05 of 0.25: a fifth of 2 x 0.04
        ({"animal": 1}, 0.80),  # another animal is another variant too
        ({"animal": 1, "scene": 1, "style": 1, "facing": 1, "size": 0.96, "x": 0.9}, 2.0),
    ],
)
def test_target_by_hand(change, expected):
    got = target(rows({}, change))
    torch.testing.assert_close(got, torch.tensor([[0.0, expected], [expected, 0.0]]))


def test_weights_sum_to_one():
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_mirroring_twice_changes_nothing():
    truth = rows({"x": 0.4}, {"facing": 1}, {"facing": 2})
    once = mirror(truth)
    assert once.facing.tolist() == [1, 0, 2] and once.x.tolist() == [0.6, 0.5, 0.5]
    assert not target(Attributes.concatenate([truth, mirror(once)]))[[0, 1, 2], [3, 4, 5]].any()


def test_batches_hold_several_pictures_of_few_animals():
    by_animal = [np.arange(100) + 100 * animal for animal in range(45)]
    chosen = batch_indices(by_animal, 64, np.random.default_rng(0))
    _, counts = np.unique(chosen[:40] // 100, return_counts=True)
    assert sorted(counts) == [6, 6, 7, 7, 7, 7]
    assert (chosen[40:] == chosen[:24]).all()

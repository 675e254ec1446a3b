import math

import pytest
import torch

from drift.functional.diversity import mean_pairwise_distance, vendi_score

# exp of the entropy of (3/4, 1/4): 4 / 3^(3/4)
THREE_TO_ONE = 4 / 3**0.75


def test_mean_pairwise_distance_by_hand():
    features = torch.tensor([[[1.0, 0.0], [9.0, 0.0], [0.0, 2.0]], [[1.0, 1.0]] * 3])
    # e1, e1, e2: pairs at 0, 2 and 2. Identical images: 0.
    torch.testing.assert_close(mean_pairwise_distance(features), torch.tensor([4 / 3, 0.0]))


def test_mean_pairwise_distance_counts_each_pair_once():
    features = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    unit = features / features.norm(dim=2, keepdim=True)
    i, j = torch.combinations(torch.arange(6)).T
    expected = (unit[:, i] - unit[:, j]).square().sum(2).mean(1)
    torch.testing.assert_close(mean_pairwise_distance(features), expected)


def test_the_mean_pairwise_distance_of_unrelated_images_is_two():
    torch.testing.assert_close(mean_pairwise_distance(torch.eye(5)[None]), torch.tensor([2.0]))


def test_a_pair_is_the_least_to_have_a_distance():
    with pytest.raises(ValueError, match="at least 2"):
        mean_pairwise_distance(torch.ones(1, 1, 3))


def test_vendi_of_one_image_is_one():
    assert vendi_score(torch.tensor([[3.0, 4.0]])) == pytest.approx(1, abs=1e-9)


def test_vendi_takes_opposite_images_for_one():
    # K = ((1, -1), (-1, 1)): K/2 has eigenvalues 1 and 0. Their pairwise distance is the largest.
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert vendi_score(opposite) == pytest.approx(1, abs=1e-9)
    assert mean_pairwise_distance(opposite[None]).item() == 4


def test_vendi_counts_distinct_images():
    e1, e2 = torch.eye(2)
    assert vendi_score(torch.eye(5)) == pytest.approx(5, abs=1e-9)
    assert vendi_score(torch.ones(6, 3)) == pytest.approx(1, abs=1e-9)
    assert vendi_score(torch.stack([e1, e1, e2, 7 * e2])) == pytest.approx(2, abs=1e-9)
    assert vendi_score(torch.stack([e1, e1, e1, e2])) == pytest.approx(THREE_TO_ONE, abs=1e-9)


def test_vendi_of_a_pair_at_60_degrees():
    # K/2 has eigenvalues (1 ± cos 60°) / 2 = 3/4 and 1/4.
    pair = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    assert vendi_score(pair) == pytest.approx(THREE_TO_ONE, abs=1e-9)


def test_vendi_is_the_same_by_either_matrix():
    tall = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([tall, torch.zeros(12, 20)], dim=1)  # N < D: the N x N form
    assert vendi_score(tall) == pytest.approx(vendi_score(wide), rel=1e-9)


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_vendi_refuses_features_without_direction(bad):
    features = torch.ones(3, 2)
    features[1] = bad
    with pytest.raises(ValueError, match="finite, non-zero"):
        vendi_score(features)

import math

import pytest
import torch

from drift.functional import diversity
from drift.functional.diversity import mean_pairwise_distance, vendi_score
from drift.functional.shaping import intra_group_diversity

# exp of the entropy of (3/4, 1/4): 4 / 3^(3/4)
THREE_TO_ONE = 4 / 3**0.75


def test_mean_pairwise_distance_by_hand():
    features = torch.tensor([[[1.0, 0.0], [9.0, 0.0], [0.0, 2.0]], [[1.0, 1.0]] * 3])
    # e1, e1, e2: pairs at 0, 2 and 2. Identical images: 0.
    expected = torch.tensor([4 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(mean_pairwise_distance(features), expected)


def test_mean_pairwise_distance_counts_each_pair_once():
    features = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0)).double()
    unit = features / features.norm(dim=2, keepdim=True)
    i, j = torch.combinations(torch.arange(6)).T
    expected = (unit[:, i] - unit[:, j]).square().sum(2).mean(1)
    torch.testing.assert_close(mean_pairwise_distance(features), expected, rtol=1e-14, atol=0)


def test_the_mean_pairwise_distance_of_unrelated_images_is_two():
    assert mean_pairwise_distance(torch.eye(5)[None]).item() == pytest.approx(2, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_identical_images_are_at_distance_0_exactly(dtype):
    one = torch.randn(4, 1, 67, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert mean_pairwise_distance(one.repeat(1, 30, 1)).tolist() == [0, 0, 0, 0]


def test_a_small_distance_far_from_the_origin_is_kept():
    # e1, e1 and e1 turned by 1e-7: pairs at 0, 1e-14 and 1e-14. 2 - 2·cos would be off by 2 %.
    e1, turned = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-7])
    features = torch.stack([e1, e1, turned])[None]
    assert mean_pairwise_distance(features).item() == pytest.approx(2e-14 / 3, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_are_judged_in_double_whatever_they_come_in(dtype):
    features = torch.randn(2, 7, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(mean_pairwise_distance(features), mean_pairwise_distance(features.double()))
    assert vendi_score(features[0]) == vendi_score(features[0].double())


def test_training_rewards_what_is_judged():
    features = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    rewarded = intra_group_diversity(features).mean(1).double()  # Eq. 11, by image
    torch.testing.assert_close(mean_pairwise_distance(features), rewarded, rtol=1e-6, atol=0)


def test_the_length_of_features_does_not_count():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    lengths = torch.tensor([1e-30, 1e-20, 1e-13, 1.0, 1e13, 1e30], dtype=torch.float64)[:, None]
    scaled = features * lengths
    assert vendi_score(scaled) == pytest.approx(vendi_score(features), rel=1e-12)
    distances = [mean_pairwise_distance(x[None]).item() for x in (scaled, features)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-12)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="features must hold at least 2 images, got 1"):
        mean_pairwise_distance(torch.ones(1, 1, 3))
    with pytest.raises(ValueError, match="features must hold at least 1 image"):
        vendi_score(torch.ones(0, 3))


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


@pytest.mark.parametrize("shape", [(500, 4), (4, 500)])
def test_vendi_decomposes_the_smaller_matrix(shape, monkeypatch):
    sizes = []
    decompose = diversity.linalg.eigvalsh
    monkeypatch.setattr(
        diversity.linalg, "eigvalsh", lambda K: sizes.append(K.shape) or decompose(K)
    )
    vendi_score(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert sizes == [(4, 4)]


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_features_without_direction_are_refused(bad):
    features = torch.ones(3, 2)
    features[1] = bad
    with pytest.raises(ValueError, match="features must be finite, and no image's all 0"):
        vendi_score(features)
    with pytest.raises(ValueError, match="features must be finite, and no image's all 0"):
        mean_pairwise_distance(features[None])

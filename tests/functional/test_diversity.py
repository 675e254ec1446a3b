import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_vendi_lies_between_one_and_n(N, D, seed):
    score = vendi_score(torch.randn(N, D, generator=torch.Generator().manual_seed(seed)))
    assert 1 - 1e-9 <= score <= min(N, D) + 1e-9


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_vendi_refuses_features_without_direction(bad):
    features = torch.ones(3, 2)
    features[1] = bad
    with pytest.raises(ValueError, match="finite, non-zero"):
        vendi_score(features)

"""Our measures against the packages people know: `vendi-score` and `prdc`.

The oracles get the same numbers in float64 (float16 and float32 are exact in it), ours the features
as they are.
"""

import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from vendi_score import vendi

from drift.functional.coverage import generalized_recall, precision
from drift.functional.diversity import mean_pairwise_distance, vendi_score

dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
# N < D, N > D, N = D
shapes = pytest.mark.parametrize(("N", "D"), [(12, 96), (150, 8), (40, 40)])


def images(N, D, dtype, seed=0):
    """N features with a common part, as an encoder's have, of which every fifth is a copy."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(N, D, generator=generator) + torch.randn(D, generator=generator)
    features[5::5] = features[4:-1:5]
    return features.to(dtype)


def as_numpy(features):
    return features.double().numpy()


@dtypes
@shapes
def test_vendi_score_is_that_of_vendi_score(N, D, dtype):
    features = images(N, D, dtype)
    assert vendi_score(features) == pytest.approx(vendi.score_dual(as_numpy(features)), rel=1e-6)


@dtypes
@shapes
def test_mean_pairwise_distance_is_twice_the_internal_diversity(N, D, dtype):
    # vendi-score's internal diversity is the mean of 1 - cos over all ordered pairs, N of which
    # pair an image with itself and add 0; a squared distance is 2 - 2·cos.
    features = images(N, D, dtype)
    unit = as_numpy(features) / np.linalg.norm(as_numpy(features), axis=1, keepdims=True)
    expected = 2 * vendi.intdiv_K(unit @ unit.T) * N / (N - 1)
    assert mean_pairwise_distance(features[None]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
@dtypes
@shapes
def test_recall_and_precision_are_those_of_prdc(N, D, dtype, k):
    # Two sets without ties between them: on a rim we say inside, prdc outside (see below).
    reference, generated = images(N, D, dtype), 0.9 * images(N + 9, D, dtype, seed=1)
    shared = N // 3
    generated[:shared] = reference[:shared] * 1.01  # else all is 0 where D is large
    theirs = compute_prdc(as_numpy(reference), as_numpy(generated), k)
    ours = generalized_recall(reference, generated, k), precision(reference, generated, k)
    assert ours == pytest.approx((theirs["recall"], theirs["precision"]), rel=1e-6)
    assert min(ours) > 0


def test_the_rim_belongs_to_our_ball_and_not_to_that_of_prdc():
    # k = 1: balls 0 ± 1, 1 ± 1, 3 ± 2, with 5 on a rim. Kynkäänniemi et al., Eq. 1, has <=.
    reference, generated = torch.tensor([[5.0], [6.0], [7.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    assert generalized_recall(reference, generated, k=1) == pytest.approx(1 / 3)
    assert compute_prdc(as_numpy(reference), as_numpy(generated), 1)["recall"] == 0
    # So a set with duplicates recalls itself by our rule only: their balls have radius 0.
    twice = torch.tensor([[0.0], [0.0], [1.0], [3.0]])
    assert generalized_recall(twice, twice, k=1) == 1
    assert compute_prdc(as_numpy(twice), as_numpy(twice), 1)["recall"] == 0.5


def test_vendi_score_of_n_orthogonal_images_is_n_for_both():
    assert vendi.score_dual(np.eye(6)) == pytest.approx(6, abs=1e-9)
    assert vendi_score(torch.eye(6) * math.pi) == pytest.approx(6, abs=1e-9)

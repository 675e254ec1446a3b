import pytest
import torch

from drift.functional import coverage
from drift.functional.coverage import generalized_recall, precision


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_by_hand():
    reference, generated = column(0, 1, 2, 10), column(0, 1, 3)
    # k = 1, balls of the generated: 0 ± 1, 1 ± 1, 3 ± 2. They hold 0, 1 and 2 but not 10.
    assert generalized_recall(reference, generated, k=1) == 0.75
    # Balls of the reference: 0 ± 1, 1 ± 1, 2 ± 1, 10 ± 8. They hold all; from 20 on, nothing.
    assert precision(reference, generated, k=1) == 1
    assert precision(reference, column(0, 1, 3, 20), k=1) == 0.75
    # k = 2: 0 ± 3, 1 ± 2, 3 ± 3 reach to 6.
    assert generalized_recall(column(5.5, 6, 6.5, 7), generated, k=2) == 0.5


def test_the_rim_belongs_to_the_ball():
    assert generalized_recall(column(5, 5.5), column(0, 1, 3), k=1) == 0.5  # 3 ± 2


def test_a_collapsed_model_covers_only_its_one_image():
    assert generalized_recall(column(1, 2, 3, 4), column(2, 2, 2, 2), k=2) == 0.25


def test_default_is_ten_neighbours():
    generated = column(*range(11))  # radius 10 at the ends, so -10 ... 20
    assert generalized_recall(column(-10, -10.5, 20, 20.5), generated) == 0.5


def test_features_are_not_normalised():
    # All point the same way, but 10 ± 1 and 11 ± 1 stay clear of 1 and 2.
    assert generalized_recall(column(1, 2), column(10, 11), k=1) == 0


def test_small_distances_far_from_the_origin_are_exact():
    # 4000.25 ± 0.25 ends at 4000.5; |x|^2 + |y|^2 - 2xy would be off by more than 1 in float32.
    assert generalized_recall(column(4000.5, 4000.625), column(4000, 4000.25), k=1) == 0.5


def test_chunks_do_not_change_the_result(monkeypatch):
    reference, generated = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    whole = generalized_recall(reference, generated, k=2), precision(reference, generated, k=2)
    assert 0 < whole[0] < 1
    monkeypatch.setattr(coverage, "ROWS", 7)
    chunked = generalized_recall(reference, generated, k=2), precision(reference, generated, k=2)
    assert chunked == whole


def test_too_few_images_for_k_are_refused():
    with pytest.raises(ValueError, match="k=3, images=3"):
        generalized_recall(column(0, 1, 2, 3, 4), column(0, 1, 3), k=3)
    with pytest.raises(ValueError, match="k=0"):
        precision(column(0, 1), column(0, 1), k=0)


def test_nan_features_are_refused():
    with pytest.raises(ValueError, match="finite"):
        generalized_recall(column(0, float("nan")), column(0, 1, 3), k=1)


def test_balls_are_round():
    # Centres (0, 0) and (3, 4), each at 5 from the other. (0, -5) and (8, 4) lie on a rim, though
    # no coordinate of the centres differs by 5; (-6, 0) is outside, though 3 + 4 is more than 6.
    generated = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    reference = torch.tensor([[0.0, -5.0], [8.0, 4.0], [-6.0, 0.0], [-4.0, -5.0]])
    assert generalized_recall(reference, generated, k=1) == 0.5


def test_precision_takes_its_balls_from_the_reference():
    with pytest.raises(ValueError, match="k=2, images=2"):
        precision(column(0, 1), column(0, 1, 3), k=2)
    # k = 1, balls of 0 and 4: ± 4. Of -4, 8 and 9 the last is outside; recall needs ± 1 and ± 12.
    assert precision(column(0, 4), column(-4, 8, 9), k=1) == pytest.approx(2 / 3)
    assert generalized_recall(column(0, 4), column(-4, 8, 9), k=1) == 1

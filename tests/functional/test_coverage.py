import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    for rows in (7, 1, 0):  # none fits: one at a time
        monkeypatch.setattr(coverage, "BLOCK_BYTES", rows * 50 * 8)
        chunked = (
            generalized_recall(reference, generated, k=2),
            precision(reference, generated, k=2),
        )
        assert chunked == whole


@pytest.mark.parametrize("k", [3, 0])
def test_a_k_that_the_images_do_not_allow_is_refused(k):
    with pytest.raises(ValueError, match=f"generated need 1 <= k < images, got k={k}, images=3"):
        generalized_recall(column(0, 1, 2, 3, 4), column(0, 1, 3), k=k)
    with pytest.raises(ValueError, match=f"reference need 1 <= k < images, got k={k}, images=3"):
        precision(column(0, 1, 3), column(0, 1, 2, 3, 4), k=k)


@pytest.mark.parametrize("measure", [generalized_recall, precision])
@pytest.mark.parametrize("bad", [column(0, 1, float("nan")), column(0, 1, float("inf")), column()])
def test_features_that_are_no_numbers_or_none_at_all_are_refused_by_name(measure, bad):
    with pytest.raises(ValueError, match="reference must hold at least one image and finite"):
        measure(bad, column(0, 1, 3), k=1)
    with pytest.raises(ValueError, match="generated must hold at least one image and finite"):
        measure(column(0, 1, 3), bad, k=1)


def by_definition(points, centres, k):
    """Kynkäänniemi et al., Eq. 1, word for word on whole numbers, whose arithmetic is exact."""

    def squared(x, y):
        return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))

    radii = [sorted(squared(x, y) for y in centres)[k] for x in centres]
    inside = [any(squared(x, y) <= r for y, r in zip(centres, radii, strict=True)) for x in points]
    return sum(inside) / len(inside)


grids = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=3, max_size=15)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(grids, grids, st.integers(1, 2))
def test_ties_and_duplicates_on_a_grid_are_as_by_definition(reference, generated, k):
    a, b = torch.tensor(reference).float(), torch.tensor(generated).float()
    assert generalized_recall(a, b, k) == pytest.approx(by_definition(reference, generated, k))
    assert precision(a, b, k) == pytest.approx(by_definition(generated, reference, k))


def directly(points, centres, k):
    """Without the screen: every distance as a sum of squared differences in float64."""

    def distance(x):
        return torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")

    points, centres = points.double(), centres.double()
    radius = distance(centres).kthvalue(k + 1, dim=1).values
    return (distance(points) <= radius).any(1).double().mean().item()


@pytest.mark.parametrize("offset", [0, 1, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_screen_never_changes_the_result(dtype, offset):
    """Tenths, which no float holds exactly: their many ties and rims are decided by rounding."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        a, b = (torch.randint(-6, 7, (2, 30, 3), generator=generator).double() / 10 + offset).to(
            dtype
        )
        for x, y in ((a, b), (a, a), (a, b[:8].repeat(2, 1)), (1.1 * b[:20].repeat(3, 1), a[:6])):
            for k in (1, 4):
                assert generalized_recall(x, y, k) == precision(y, x, k) == directly(x, y, k)


def test_a_set_recalls_itself_wholly():
    features = torch.randn(300, 48, generator=torch.Generator().manual_seed(0)) + 5
    features[100:200] = features[100]  # 100 copies of one image: balls of radius 0
    features[200:250] = features[250:]
    assert generalized_recall(features, features) == precision(features, features) == 1


def test_half_precision_is_compared_in_double():
    # 2 and 2 + 2^-9 are neighbours in float16; squares of what parts them underflow to 0 there.
    near = torch.tensor([[2.0], [2 + 2**-9], [2.125]], dtype=torch.float16)
    assert generalized_recall(near[2:], near[:2], k=1) == 0
    assert generalized_recall(near[1:] / 256, near[:2] / 256, k=1) == 0.5


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

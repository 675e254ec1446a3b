import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.functional.shaping import (
    clip_intrinsic,
    intra_group_diversity,
    step_intrinsic_rewards,
    trajectory_intrinsic_reward,
)


def test_intra_group_diversity_by_hand():
    features = torch.tensor([[[2.0, 0.0], [5.0, 0.0], [0.0, 0.1]]])  # e1, e1, e2 once normalised
    # Squared distances: 0 within the pair, 2 to the third: (0 + 2)/2, (0 + 2)/2, (2 + 2)/2.
    got = intra_group_diversity(features)
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.0, 2.0]]))


def test_diversity_ends_at_four():
    opposite = torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]])
    torch.testing.assert_close(intra_group_diversity(opposite), torch.full((1, 2), 4.0))


def test_identical_images_have_exactly_none():
    features = torch.randn(3, 1, 1792, generator=torch.Generator().manual_seed(0)).expand(3, 8, -1)
    assert torch.equal(intra_group_diversity(features), torch.zeros(3, 8))


def test_groups_do_not_mix():
    features = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([intra_group_diversity(f[None]) for f in features])
    torch.testing.assert_close(intra_group_diversity(features), alone)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="G=1"):
        intra_group_diversity(torch.ones(2, 1, 3))


def test_step_intrinsic_rewards_by_hand():
    potential = torch.tensor([[[0.0, 2.0, 1.0]]])  # 0.5·2 - 0, 0.5·1 - 2
    assert step_intrinsic_rewards(potential, gamma=0.5).tolist() == [[[1.0, -1.5]]]


def test_trajectory_intrinsic_reward_by_hand():
    got = trajectory_intrinsic_reward(torch.tensor([[4.0, 8.0]]), gamma=0.5, steps=2)
    assert got.tolist() == [[1.0, 2.0]]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 4), min_size=1, max_size=20), st.sampled_from([1.0, 0.9, 0.5]))
def test_shaping_telescopes(potential, gamma):
    T = len(potential)
    d = torch.tensor([[[0.0, *potential]]], dtype=torch.float64)  # d of pure noise is 0
    discount = gamma ** torch.arange(T, dtype=torch.float64)
    walked = (discount * step_intrinsic_rewards(d, gamma)).sum(-1)
    torch.testing.assert_close(walked, trajectory_intrinsic_reward(d[..., -1], gamma, steps=T))


def test_clip_intrinsic():
    got = clip_intrinsic(torch.tensor([[-0.5, 0.0, 0.3, 1.0, 1.7]]), upper=1.0)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.0, 0.3, 1.0, 1.0]]))

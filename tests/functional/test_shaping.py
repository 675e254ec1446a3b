import pytest
import torch

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


def test_clip_intrinsic():
    got = clip_intrinsic(torch.tensor([[-0.5, 0.0, 0.3, 1.0, 1.7]]), upper=1.0)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.0, 0.3, 1.0, 1.0]]))


def test_features_without_direction_are_at_distance_one_and_never_nan():
    got = intra_group_diversity(torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]]))
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.5, 1.0]]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad):
    features = torch.ones(2, 3, 4)
    features[1, 2, 0] = bad
    with pytest.raises(ValueError, match="finite"):
        intra_group_diversity(features)


def test_standing_still_earns_nothing_undiscounted_and_costs_something_discounted():
    potential = torch.full((1, 1, 3), 2.0)
    assert step_intrinsic_rewards(potential, gamma=1.0).tolist() == [[[0.0, 0.0]]]
    assert step_intrinsic_rewards(potential, gamma=0.75).tolist() == [[[-0.5, -0.5]]]


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 3.0), (0.5, 0.375), (0.0, 0.0)])
def test_gamma_is_raised_to_the_number_of_steps(gamma, expected):
    got = trajectory_intrinsic_reward(torch.tensor([[3.0]]), gamma, steps=3)  # 3/8 at one half
    assert got.item() == expected


def test_clipped_at_zero_nothing_is_left():
    assert clip_intrinsic(torch.tensor([[0.3, 4.0]]), upper=0.0).tolist() == [[0.0, 0.0]]

import math

import pytest
import torch

from drift.functional.gains import diversity_gain, normalise_rewards, reward_gain

# (reward, diversity) of a run's checkpoints: the reward rises, the diversity falls.
OURS = torch.tensor([[0.0, 8.0], [0.4, 6.0], [0.8, 4.0]])


def point(reward: float, diversity: float) -> torch.Tensor:
    return torch.tensor([[reward, diversity]])


def test_diversity_gain_takes_the_checkpoint_that_slightly_exceeds_the_reward():
    # At reward 0.3 the next is (0.4, 6): 6 / 5 - 1. At 0.4 itself it is the same.
    assert diversity_gain(OURS, point(0.3, 5)).item() == pytest.approx(0.2)
    assert diversity_gain(OURS, point(0.4, 5)).item() == pytest.approx(0.2)
    # At 0.41 it is (0.8, 4): a lower bound, and here a loss.
    assert diversity_gain(OURS, point(0.41, 5)).item() == pytest.approx(-0.2)


def test_reward_gain_takes_the_checkpoint_that_slightly_exceeds_the_diversity():
    # At diversity 5 the next is (0.4, 6): 0.4 / 0.5 - 1. At 4 it is (0.8, 4).
    assert reward_gain(OURS, point(0.5, 5)).item() == pytest.approx(-0.2)
    assert reward_gain(OURS, point(0.5, 4)).item() == pytest.approx(0.6)


def test_interpolation_meets_the_coordinate_itself():
    # Half way between (0.4, 6) and (0.8, 4) lies (0.6, 5).
    assert diversity_gain(OURS, point(0.6, 4), "interpolation").item() == pytest.approx(0.25)
    assert reward_gain(OURS, point(0.5, 5), "interpolation").item() == pytest.approx(0.2)
    assert diversity_gain(OURS, point(0.8, 4), "interpolation").item() == pytest.approx(0)
    assert diversity_gain(OURS, point(0.0, 4), "interpolation").item() == pytest.approx(1)


@pytest.mark.parametrize("by", ["exceeding", "interpolation"])
def test_what_no_checkpoint_reaches_has_no_gain(by):
    assert math.isnan(diversity_gain(OURS, point(0.81, 1), by).item())
    assert math.isnan(reward_gain(OURS, point(0.1, 8.1), by).item())
    # A reward below all of ours is reached by each: the first has as much diversity as any.
    assert diversity_gain(OURS, point(-1.0, 4), by).item() == pytest.approx(1)


def test_nothing_is_relative_to_a_baseline_of_zero():
    assert math.isnan(reward_gain(OURS, point(0.0, 5)).item())


def test_a_baseline_that_dominates_is_a_loss_in_both():
    better = point(0.4, 8)
    assert diversity_gain(OURS, better).item() == pytest.approx(6 / 8 - 1)
    assert reward_gain(OURS, better).item() == pytest.approx(0 / 0.4 - 1)
    assert diversity_gain(OURS, better, "interpolation").item() == pytest.approx(-0.25)


def test_crossing_frontiers_gain_on_one_side_and_lose_on_the_other():
    # The baseline is flatter: 6.5 at 0.2 where ours has 7, and 5.5 at 0.6 where ours has 5.
    baseline = torch.tensor([[0.2, 6.5], [0.6, 5.5]])
    gains = diversity_gain(OURS, baseline, "interpolation")
    torch.testing.assert_close(gains, torch.tensor([7 / 6.5 - 1, 5 / 5.5 - 1]).double())
    # By the protocol both are judged by the next checkpoint: (0.4, 6) and (0.8, 4).
    gains = diversity_gain(OURS, baseline)
    torch.testing.assert_close(gains, torch.tensor([6 / 6.5 - 1, 4 / 5.5 - 1]).double())


def test_of_equal_checkpoints_the_lower_counts():
    twins = torch.tensor([[0.5, 3.0], [0.5, 2.0]])
    assert diversity_gain(twins, point(0.5, 2)).item() == 0
    # The frontier holds only the better one.
    assert diversity_gain(twins, point(0.5, 2), "interpolation").item() == pytest.approx(0.5)


def test_dominated_checkpoints_do_not_bend_the_line():
    bent = torch.cat([OURS, point(0.6, 1)])
    assert diversity_gain(bent, point(0.6, 4), "interpolation").item() == pytest.approx(0.25)
    # The protocol takes what the run had there.
    assert diversity_gain(bent, point(0.55, 4)).item() == pytest.approx(1 / 4 - 1)


def test_a_run_against_itself_gains_nothing():
    assert diversity_gain(OURS, OURS).tolist() == [0, 0, 0]
    assert reward_gain(OURS, OURS, "interpolation")[1:].tolist() == [0, 0]


def test_points_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        diversity_gain(OURS, point(math.nan, 1.0))
    with pytest.raises(ValueError, match="finite"):
        reward_gain(torch.tensor([[math.inf, 1.0]]), point(1.0, 1.0))


def test_rewards_by_shared_bounds():
    rewards = torch.tensor([19.0, 20.0, 21.0, 22.0])
    assert normalise_rewards(rewards, 20.0, 22.0).tolist() == [-0.5, 0, 0.5, 1]
    with pytest.raises(ValueError, match="low < high"):
        normalise_rewards(rewards, 1.0, 1.0)

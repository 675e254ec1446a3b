import pytest
import torch

from drift.functional.pareto import bootstrap_interval, frontier, hypervolume


def test_frontier_by_hand():
    reward = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    diversity = torch.tensor([3.0, 2.0, 1.0, 1.0, 2.0, 0.5])
    # (1, 1) and (3, 0.5) are dominated; the twins at (2, 2) do not dominate each other.
    assert frontier(reward, diversity).tolist() == [True, True, True, False, True, False]


def test_hypervolume_by_hand():
    reward, diversity = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([2.0, 3.0, 1.0])
    assert hypervolume(reward, diversity) == 6  # strips of width 1 and height 3, 2, 1
    assert hypervolume(reward, diversity, origin=(1.0, 1.0)) == 1  # only (2, 2) is above it
    assert hypervolume(reward, diversity, origin=(4.0, 4.0)) == 0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bootstrap_interval_of_two_values():
    values = torch.tensor([0.0, 1.0])  # the mean of two draws is 0, 1/2, 1 in 1/4, 1/2, 1/4
    assert bootstrap_interval(values, seeded()) == (0, 1)
    assert bootstrap_interval(values, seeded(), confidence=0.3) == (0.5, 0.5)


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = torch.randn(400, generator=seeded(1))
    mean, half = values.mean().item(), 1.96 * values.std().item() / 20
    low, high = bootstrap_interval(values, seeded())
    assert low == pytest.approx(mean - half, abs=0.01)
    assert high == pytest.approx(mean + half, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seeded())


def test_bootstrap_interval_of_a_constant_is_a_point():
    assert bootstrap_interval(torch.full((5,), 0.25), seeded()) == (0.25, 0.25)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(torch.ones(1), seeded())


def test_one_point_is_its_own_frontier():
    assert frontier(torch.tensor([-1.0]), torch.tensor([0.0])).tolist() == [True]


def test_a_tie_in_one_coordinate_is_decided_by_the_other():
    assert frontier(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 3.0])).tolist() == [False, True]


def test_nothing_has_no_area():
    assert hypervolume(torch.ones(3), torch.zeros(3)) == 0
    assert hypervolume(torch.tensor([-1.0]), torch.tensor([5.0])) == 0


def test_a_point_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="nan"):
        frontier(torch.tensor([0.0, torch.nan]), torch.tensor([1.0, 0.0]))

import pytest
import torch

from drift.functional.pareto import frontier, hypervolume


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

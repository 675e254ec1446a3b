import pytest
import torch

from drift.functional.selection import random_subset, reward_concentrated, reward_contrasted

SELECTIONS = [
    reward_concentrated,
    reward_contrasted,
    lambda rewards, keep: random_subset(rewards, keep, torch.Generator().manual_seed(0)),
]


def test_by_hand():
    rewards = torch.tensor([[0.0, 1.0, 2.0, 10.0, 11.0, 11.5]])
    # Sums of the 2 smallest distances: 3, 2, 3, 2.5, 1.5, 2. Least at 11, whose nearest are
    # 11.5 and 10.
    assert reward_concentrated(rewards, keep=3).tolist() == [[3, 4, 5]]
    # Sums of the 2 largest: 22.5, 20.5, 18.5, 19, 21, 22. Most at 0, farthest from 11.5 and 11.
    assert reward_contrasted(rewards, keep=3).tolist() == [[0, 4, 5]]


def test_the_papers_half_of_an_evenly_spaced_pool():
    rewards = torch.arange(16.0)[None]
    # A centre with 3 or more to each side has its 7 nearest at 1, 1, 2, 2, 3, 3, 4: sum 16. The
    # first such is 3, with 0, 1, 2 below and 4 to 7 above. Nearer the edge the sum is larger.
    assert reward_concentrated(rewards, keep=8).tolist() == [list(range(8))]
    # The largest sum of 7 is from an end: 9 + ... + 15 = 84. The first such is 0.
    assert reward_contrasted(rewards, keep=8).tolist() == [[0, *range(9, 16)]]


def test_concentrated_drops_the_outlier_and_contrasted_keeps_it():
    rewards = torch.tensor([[0.1, 0.2, 0.15, 0.9], [0.9, 0.2, 0.15, 0.1]])
    assert reward_concentrated(rewards, keep=3).tolist() == [[0, 1, 2], [1, 2, 3]]
    assert reward_contrasted(rewards, keep=2).tolist() == [[0, 3], [0, 3]]


def test_twins_are_nearest_without_displacing_the_centre():
    rewards = torch.tensor([[5.0, 1.0, 9.0, 1.0]])
    assert reward_concentrated(rewards, keep=2).tolist() == [[1, 3]]


@pytest.mark.parametrize("select", [reward_concentrated, reward_contrasted])
def test_ties_go_to_the_lowest_index(select):
    assert select(torch.full((2, 16), 0.1), keep=8).tolist() == [list(range(8))] * 2


@pytest.mark.parametrize("select", SELECTIONS)
def test_keeping_all_is_the_identity(select):
    assert select(torch.tensor([[0.3, 0.1, 0.2]]), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("select", SELECTIONS)
def test_bad_input_is_refused(select):
    rewards = torch.tensor([[0.3, 0.1, 0.2]])
    with pytest.raises(ValueError, match="keep 4 of 3"):
        select(rewards, 4)
    with pytest.raises(ValueError, match="keep 1 of 3"):
        select(rewards, 1)
    with pytest.raises(ValueError, match="nan"):
        select(torch.tensor([[0.3, torch.nan, 0.2]]), 2)
    with pytest.raises(ValueError, match="inf"):
        select(torch.tensor([[0.3, torch.inf, 0.2]]), 2)


def test_random_subset_is_uniform_and_reproducible():
    rewards = torch.zeros(6000, 4)
    kept = random_subset(rewards, 2, torch.Generator().manual_seed(0))
    assert torch.equal(kept, random_subset(rewards, 2, torch.Generator().manual_seed(0)))
    assert (kept.diff() > 0).all()
    # 6 pairs of 4, each expected 1000 times with a standard deviation of 29
    pairs, counts = kept.unique(dim=0, return_counts=True)
    assert len(pairs) == 6
    assert ((counts - 1000).abs() < 120).all()

import pytest
import torch

from drift.functional.timesteps import all_steps, first_steps, random_steps, window_steps


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_all_steps():
    assert all_steps(prompts=2, steps=3).tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(1.0, [0, 1, 2, 3, 4]), (0.6, [0, 1, 2]), (0.5, [0, 1]), (0.2, [0]), (0.01, [0])],
)
def test_the_first_steps_and_at_least_one(fraction, kept):
    assert first_steps(2, 5, fraction).tolist() == [kept, kept]


@pytest.mark.parametrize(
    ("fraction", "kept"), [(1.0, 10), (0.5, 5), (0.34, 3), (0.1, 1), (0.01, 1)]
)
def test_a_fraction_of_the_steps_and_at_least_one(fraction, kept):
    steps = random_steps(3, 10, fraction, seeded())
    assert steps.shape == (3, kept)
    assert (steps.diff() > 0).all()  # ascending, hence distinct
    assert 0 <= steps.min() <= steps.max() < 10


def test_random_steps_are_each_prompts_own_uniform_and_reproducible():
    steps = random_steps(6000, 4, 0.5, seeded())
    assert torch.equal(steps, random_steps(6000, 4, 0.5, seeded()))
    # 6 pairs of 4, each expected 1000 times with a standard deviation of 29
    pairs, counts = steps.unique(dim=0, return_counts=True)
    assert len(pairs) == 6
    assert ((counts - 1000).abs() < 120).all()


def test_the_window_slides_one_step_at_a_time_and_starts_again():
    # Two of five steps: starts at 0, 1, 2, 3, and at 0 again.
    got = [window_steps(1, 5, size=2, epoch=e, every=1)[0].tolist() for e in (1, 2, 3, 4, 5)]
    assert got == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 1]]
    # Every second epoch: epochs 1 and 2 share a window, as do 3 and 4.
    got = [window_steps(1, 5, size=2, epoch=e, every=2)[0, 0].item() for e in (1, 2, 3, 4, 5)]
    assert got == [0, 0, 1, 1, 2]


def test_the_window_is_the_same_for_all_prompts():
    assert window_steps(3, 5, size=2, epoch=2, every=1).tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("epoch", [1, 2, 9])
def test_a_window_as_long_as_the_trajectory_is_all_of_it(size, epoch):
    assert torch.equal(window_steps(2, 3, size, epoch, every=1), all_steps(2, 3))

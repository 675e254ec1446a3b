import pytest
import torch

from drift.errors import UserError
from drift.rewards.weighted_sum import WeightedSum, combine


def red(images, prompts):
    return images[:, 0].mean((1, 2))


def ones(images, prompts):
    return torch.ones(len(images))


IMAGES = torch.tensor([0.25, 0.75])[:, None, None, None].expand(2, 3, 8, 8)


def test_raw_scores_are_weighed_and_added():
    total = combine({"red": 2.0, "ones": -0.5}, {"red": red, "ones": ones})
    assert total(IMAGES, ["a fox", "a cat"]).tolist() == [0.0, 1.0]
    assert combine({"red": 1.0}, {"red": red}) is red
    assert combine({"red": 2.0}, {"red": red})(IMAGES, ["", ""]).tolist() == [0.5, 1.5]


def test_a_sum_with_a_per_group_part_is_per_group():
    def group(images, prompts):
        return torch.ones(len(images))

    group.per_group = True
    parts = {"red": red, "ones": ones, "group": group}
    assert WeightedSum({"red": 1.0, "group": 1.0}, parts).per_group
    assert not WeightedSum({"red": 1.0, "ones": 1.0}, parts).per_group


@pytest.mark.parametrize("wrong", [torch.ones(()), torch.ones(1), torch.ones(2, 1)])
def test_a_part_that_would_broadcast_is_named(wrong):
    total = WeightedSum({"red": 1.0, "wrong": 1.0}, {"red": red, "wrong": lambda x, p: wrong})
    with pytest.raises(UserError, match="the reward wrong returned float32 of shape"):
        total(IMAGES, ["a fox", "a cat"])


def test_nan_of_a_part_names_part_and_prompt():
    broken = torch.tensor([1.0, torch.nan])
    total = WeightedSum({"red": 1.0, "bad": 0.1}, {"red": red, "bad": lambda x, p: broken})
    with pytest.raises(UserError, match="the reward bad of an image for 'a cat' is nan"):
        total(IMAGES, ["a fox", "a cat"])

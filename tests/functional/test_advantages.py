import pytest
import torch

from drift.functional.advantages import batch_advantages, combine, group_advantages


def test_group_advantages_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 4.0]])
    # Row 1: mean 0.5, std 0.5. Row 2: mean 1, population std sqrt((1 + 1 + 1 + 9) / 4) = sqrt 3.
    expected = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-(3**-0.5)] * 3 + [3**0.5]])
    torch.testing.assert_close(group_advantages(rewards, eps=0.0), expected)
    torch.testing.assert_close(group_advantages(rewards), expected, rtol=0, atol=1e-5)


def test_eps_is_added_to_the_std():
    rewards = torch.tensor([[0.0, 2e-6]])  # mean 1e-6, std 1e-6: ±1e-6 / (1e-6 + 1e-6)
    torch.testing.assert_close(group_advantages(rewards, eps=1e-6), torch.tensor([[-0.5, 0.5]]))


@pytest.mark.parametrize("G", [2, 3, 7, 8, 16])
@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_equal_rewards_give_exactly_zero(G, eps):
    rewards = torch.linspace(0.1, 25.3, 64)[:, None].expand(64, G)  # most means are rounded
    assert torch.equal(group_advantages(rewards, eps), torch.zeros(64, G))
    assert torch.equal(batch_advantages(rewards[:1], eps), torch.zeros(1, G))


def test_an_equal_group_leaves_its_neighbours_alone():
    got = group_advantages(torch.tensor([[0.1, 0.1], [0.0, 1.0]]), eps=0.0)
    assert torch.equal(got, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))


def test_batch_advantages_see_across_prompts():
    rewards = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert torch.equal(batch_advantages(rewards, eps=0.0), torch.tensor([[-1.0, -1], [1, 1]]))
    assert torch.equal(group_advantages(rewards), torch.zeros(2, 2))


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(torch.tensor([[1.0], [2.0]]))


def test_combine_by_hand():
    got = combine(torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.0, -1.0]]), weight=0.5)
    assert torch.equal(got, torch.tensor([[-0.5, 0.5]]))


def test_a_bonus_equal_for_the_group_cancels():
    advantages = group_advantages(torch.tensor([[0.0, 1.0, 2.0]]))
    bonus = group_advantages(torch.full((1, 3), 0.7))
    assert torch.equal(combine(advantages, bonus, weight=0.5), advantages)

import pytest
import torch

from drift.functional.advantages import (
    batch_advantages,
    buffered_advantages,
    combine,
    group_advantages,
)


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


def test_one_outlier_gets_the_root_of_its_rivals_however_far_it_lies():
    # (0, 0, 0, 0, x): mean x/5, std sqrt((4·x²/25 + 16·x²/25) / 5) = 2x/5; so -1/2 and 4/2.
    rewards = torch.tensor([0.5, 4.0, 1024.0])[:, None] * torch.tensor([0.0, 0, 0, 0, 1])
    expected = torch.tensor([[-0.5, -0.5, -0.5, -0.5, 2.0]]).expand(3, 5)  # 2 = sqrt(G - 1)
    torch.testing.assert_close(group_advantages(rewards, eps=0.0), expected)


def test_a_group_of_two_knows_only_which_is_better():
    got = group_advantages(torch.tensor([[0.25, 0.5], [100.0, -3.0]]), eps=0.0)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))


def test_batch_advantages_by_hand():
    got = batch_advantages(torch.tensor([[0.0, 2.0], [4.0, 6.0]]), eps=0.0)
    # Mean 3, std sqrt((9 + 1 + 1 + 9) / 4) = sqrt 5. Within each prompt it would be -1 and 1.
    torch.testing.assert_close(got, torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / 5**0.5)


def test_of_one_prompt_the_batch_is_the_group():
    rewards = torch.tensor([[0.1, 0.7, 0.3]])
    assert torch.equal(batch_advantages(rewards), group_advantages(rewards))


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        batch_advantages(torch.tensor([[1.0]]))


def test_a_nan_is_never_turned_into_zero_and_stays_in_its_group():
    got = group_advantages(torch.tensor([[torch.nan, torch.nan], [0.0, torch.nan], [0.0, 1.0]]))
    assert got[:2].isnan().all()
    assert got[2].isfinite().all()


def test_weight_zero_leaves_the_advantages_bit_for_bit():
    advantages = group_advantages(torch.tensor([[0.1, 0.7, 0.3]]))
    assert torch.equal(combine(advantages, advantages.flip(1), weight=0.0), advantages)


def test_buffered_advantages_by_hand():
    rewards = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    buffers = [torch.tensor([-2.0, 4.0, 0.0, 2.0]), torch.tensor([4.0, 6.0])]
    # Prompt 0 knows mean 1 and std sqrt((9 + 9 + 1 + 1) / 4) = sqrt 5. Prompt 1 knows too few and
    # takes the batch's: mean 3, std sqrt((9 + 1 + 1 + 9) / 4) = sqrt 5.
    got = buffered_advantages(rewards, buffers, min_count=3, eps=0.0)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0], [1.0, 3.0]]) / 5**0.5)
    # With enough it takes its own: mean 5, std 1.
    got = buffered_advantages(rewards, buffers, min_count=2, eps=0.0)
    torch.testing.assert_close(got[1], torch.tensor([-1.0, 1.0]))


def test_a_buffer_of_this_batch_alone_is_the_group_and_an_empty_one_the_whole_batch():
    rewards = torch.tensor([[0.1, 0.7, 0.3], [0.9, 0.2, 0.2]])
    torch.testing.assert_close(
        buffered_advantages(rewards, list(rewards), min_count=3), group_advantages(rewards)
    )
    empty = [torch.zeros(0)] * 2
    torch.testing.assert_close(
        buffered_advantages(rewards, empty, min_count=1), batch_advantages(rewards)
    )


def test_a_buffer_of_equal_rewards_gives_exactly_zero():
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.0, 1.0, 2.0]])
    buffers = [torch.full((7,), 0.1), rewards[1]]
    assert torch.equal(buffered_advantages(rewards, buffers, min_count=1)[0], torch.zeros(3))

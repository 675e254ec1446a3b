"""What holds for any input, on random ones.

Rewards are integers or eighths: exact in float32, so that a tie is a tie and no tolerance is needed
to tell the chosen from the others.
"""

from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drift.functional.advantages import batch_advantages, combine, group_advantages
from drift.functional.conditioning import anneal
from drift.functional.coverage import generalized_recall, precision
from drift.functional.diversity import mean_pairwise_distance, vendi_score
from drift.functional.pareto import frontier, hypervolume
from drift.functional.selection import random_subset, reward_concentrated, reward_contrasted
from drift.functional.shaping import (
    intra_group_diversity,
    step_intrinsic_rewards,
    trajectory_intrinsic_reward,
)
from drift.functional.surrogate import clipped_surrogate

some = settings(derandomize=True, deadline=None, max_examples=40)
seeds = st.integers(0, 2**31)
# The two selections that look at the rewards, with the sign that makes the best star the least.
by_reward = pytest.mark.parametrize(
    ("select", "sign"), [(reward_concentrated, 1), (reward_contrasted, -1)]
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def pools(draw, largest=8, unique=False):
    """The rewards of one prompt's pool, by default full of ties, and how many to keep."""
    rewards = draw(st.lists(st.integers(-largest, largest), min_size=2, max_size=8, unique=unique))
    return rewards, draw(st.integers(2, len(rewards)))


def one_row(rewards):
    return torch.tensor([rewards], dtype=torch.float32)


def stars(rewards, keep, sign):
    """Every star (App. E), not only each centre's shortest: (length, centre, leaves), exact."""
    everyone = range(len(rewards))
    for centre in everyone:
        others = [j for j in everyone if j != centre]
        for leaves in combinations(others, keep - 1):
            yield sign * sum(abs(rewards[centre] - rewards[j]) for j in leaves), centre, leaves


def members(star):
    _, centre, leaves = star
    return tuple(sorted((centre, *leaves)))


# Selection


@by_reward
@some
@given(pools())
def test_selection_is_the_best_of_all_stars(select, sign, pool):
    rewards, keep = pool
    # The least star in dictionary order: ties go to the lowest centre, then to the lowest leaves.
    best = min(stars(rewards, keep, sign))
    assert tuple(select(one_row(rewards), keep)[0].tolist()) == members(best)


@by_reward
@some
@given(pools(), st.integers(-64, 64))
def test_selection_ignores_shift_scale_and_sign(select, sign, pool, shift):
    rewards, keep = one_row(pool[0]), pool[1]
    kept = select(rewards, keep)
    for same in (rewards + shift, rewards / 8, -rewards):
        assert torch.equal(select(same, keep), kept)


@by_reward
@some
@given(pools(largest=10**6, unique=True), st.randoms(use_true_random=False))
def test_selection_follows_a_permutation_of_the_pool(select, sign, pool, random):
    rewards, keep = pool
    lengths = list(stars(rewards, keep, sign))
    best = min(lengths)[0]
    # "up to ties": two stars of one length may change places.
    assume(len({members(star) for star in lengths if star[0] == best}) == 1)
    order = random.sample(range(len(rewards)), len(rewards))
    permuted = select(one_row([rewards[i] for i in order]), keep)[0].tolist()
    assert sorted(order[i] for i in permuted) == select(one_row(rewards), keep)[0].tolist()


@some
@given(pools(), seeds)
def test_selection_keeps_distinct_indices_of_the_pool(pool, seed):
    rewards, keep = one_row(pool[0]), pool[1]
    for kept in (
        reward_concentrated(rewards, keep),
        reward_contrasted(rewards, keep),
        random_subset(rewards, keep, seeded(seed)),
    ):
        assert kept.shape == (1, keep)
        assert (kept.diff() > 0).all()  # ascending, hence distinct
        assert kept.min() >= 0
        assert kept.max() < rewards.shape[1]


@some
@given(pools(), seeds)
def test_a_random_subset_does_not_look_at_the_rewards(pool, seed):
    rewards, keep = one_row(pool[0]), pool[1]
    kept = random_subset(rewards, keep, seeded(seed))
    assert torch.equal(kept, random_subset(torch.zeros_like(rewards), keep, seeded(seed)))


# Advantages

groups = st.integers(2, 8).flatmap(
    lambda G: st.lists(
        st.lists(st.integers(-100, 100), min_size=G, max_size=G), min_size=1, max_size=4
    )
)


@some
@given(groups)
def test_advantages_have_mean_0_and_std_1_unless_rewards_are_equal(groups):
    rewards = torch.tensor(groups, dtype=torch.float32)
    for rows, A in (
        (rewards, group_advantages(rewards)),
        (rewards.reshape(1, -1), batch_advantages(rewards).reshape(1, -1)),
    ):
        spread = (rows != rows[:, :1]).any(1).float()
        torch.testing.assert_close(A.mean(1), torch.zeros(len(A)), rtol=0, atol=1e-5)
        torch.testing.assert_close(A.std(1, correction=0), spread, rtol=0, atol=1e-5)


@some
@given(groups, st.integers(-64, 64), st.sampled_from([0.5, 2.0, 8.0]))
def test_advantages_ignore_shift_and_scale_and_keep_the_order(groups, shift, scale):
    rewards = torch.tensor(groups, dtype=torch.float32)
    A = group_advantages(rewards)
    torch.testing.assert_close(group_advantages(scale * rewards + shift), A, rtol=0, atol=1e-4)
    higher = rewards[:, :, None] > rewards[:, None, :]
    assert (A[:, :, None] > A[:, None, :])[higher].all()


@some
@given(groups, st.sampled_from([0.0, 0.5, 3.0]), seeds)
def test_combined_advantages_have_mean_0(groups, weight, seed):
    rewards = torch.tensor(groups, dtype=torch.float32)
    intrinsic = group_advantages(torch.rand(rewards.shape, generator=seeded(seed)))
    A = combine(group_advantages(rewards), intrinsic, weight)
    torch.testing.assert_close(A.mean(1), torch.zeros(len(A)), rtol=0, atol=1e-5)


@some
@given(seeds, st.floats(0.01, 0.5))
def test_the_clipped_objective_never_promises_more_than_the_plain_one(seed, clip_range):
    log_prob, old, A = torch.randn(3, 16, generator=seeded(seed))
    assert (clipped_surrogate(log_prob, old, A, clip_range) >= -A * (log_prob - old).exp()).all()


# Diversity and coverage


@some
@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_vendi_lies_between_one_and_n_and_copies_do_not_raise_it(N, D, seed):
    features = torch.randn(N, D, generator=seeded(seed))
    score = vendi_score(features)
    assert 1 - 1e-9 <= score <= min(N, D) + 1e-9
    copies = features.repeat(3, 1)[torch.randperm(3 * N, generator=seeded(seed))]
    assert vendi_score(copies) == pytest.approx(score, rel=1e-6)


@some
@given(st.integers(1, 6), seeds)
def test_recall_lies_in_0_1_and_a_set_recalls_itself(k, seed):
    a, b = torch.randn(2, 12, 64, generator=seeded(seed))
    a[3], b[5:9] = a[4], b[4]  # duplicates: balls of radius 0 at small k
    assert generalized_recall(b, b, k) == precision(b, b, k) == 1
    recall = generalized_recall(a, b, k)
    assert 0 <= recall <= 1
    assert recall == precision(b, a, k)
    assert recall <= generalized_recall(a, b, k + 1)  # larger balls


@some
@given(st.integers(2, 8), seeds)
def test_diversity_lies_in_0_4_and_belongs_to_the_image_not_to_its_place(G, seed):
    features = torch.randn(1, G, 3, generator=seeded(seed))
    d = intra_group_diversity(features)
    assert d.min() >= 0
    assert d.max() <= 4 + 1e-6
    assert mean_pairwise_distance(features).item() <= 2 * G / (G - 1) + 1e-6  # a centred simplex
    order = torch.randperm(G, generator=seeded(seed))
    torch.testing.assert_close(intra_group_diversity(features[:, order]), d[:, order])


# Shaping and conditioning


@some
@given(st.lists(st.floats(0, 4), min_size=2, max_size=20), st.sampled_from([1.0, 0.9, 0.5]))
def test_shaping_telescopes(potential, gamma):
    T = len(potential) - 1
    d = torch.tensor([[potential]], dtype=torch.float64)
    discount = gamma ** torch.arange(T, dtype=torch.float64)
    walked = (discount * step_intrinsic_rewards(d, gamma)).sum(-1)  # Eq. 8, summed
    torch.testing.assert_close(walked, gamma**T * d[..., -1] - d[..., 0])


@some
@given(st.lists(st.floats(0, 4), min_size=1, max_size=20), st.sampled_from([1.0, 0.9, 0.5]))
def test_shaping_from_pure_noise_sums_to_equation_9(potential, gamma):
    T = len(potential)
    d = torch.tensor([[[0.0, *potential]]], dtype=torch.float64)  # d of pure noise is 0
    discount = gamma ** torch.arange(T, dtype=torch.float64)
    walked = (discount * step_intrinsic_rewards(d, gamma)).sum(-1)
    torch.testing.assert_close(walked, trajectory_intrinsic_reward(d[..., -1], gamma, steps=T))


@some
@given(st.floats(0, 0.5), st.floats(0.01, 0.5))
def test_the_share_of_the_clean_prompt_never_rises_with_time(tau1, width):
    gamma = anneal(torch.linspace(0, 1, 41), tau1, tau1 + width)
    assert 0 <= gamma.min() <= gamma.max() <= 1
    assert (gamma.diff() <= 0).all()


# Frontier

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=10)


@some
@given(points)
def test_the_frontier_is_who_nobody_dominates(xy):
    reward, diversity = torch.tensor(xy, dtype=torch.float32).T
    alone = [not any(x >= a and y >= b and (x, y) != (a, b) for x, y in xy) for a, b in xy]
    assert frontier(reward, diversity).tolist() == alone
    assert any(alone)


@some
@given(points)
def test_the_hypervolume_is_the_frontiers(xy):
    reward, diversity = torch.tensor(xy, dtype=torch.float32).T
    mask = frontier(reward, diversity)
    assert hypervolume(reward[mask], diversity[mask]) == hypervolume(reward, diversity)
    # On integers the area is the number of unit cells below some point.
    cells = {(i, j) for x, y in xy for i in range(x) for j in range(y)}
    assert hypervolume(reward, diversity) == len(cells)

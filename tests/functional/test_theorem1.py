"""DRIFT's Theorem 1 where it is true, and what the published method does (docs/theorem1.md).

Small finite-horizon MDPs, solved exactly by backward induction. Every reward, potential, discount
and probability is a small multiple of a power of two, so float64 is exact and a tie is a tie.
"""

import numpy as np
import pytest
import torch

from drift.functional.advantages import combine, group_advantages
from drift.functional.diversity import mean_pairwise_distance
from drift.functional.shaping import (
    clip_intrinsic,
    intra_group_diversity,
    step_intrinsic_rewards,
    trajectory_intrinsic_reward,
)

LAMBDAS = [0.25, 0.5, 1.0, 8.0]
GAMMAS = [1.0, 0.5]
SEEDS = range(40)
S, A, T = 3, 3, 4  # states, actions, steps of the random MDPs


def solve(P, R, gamma):
    """Q[t, s, a] by backward induction; P and R are [t, s, a, s'], the value of the end is 0."""
    V, Q = np.zeros(P.shape[1]), []
    for p, r in zip(P[::-1], R[::-1], strict=True):
        Q.append((p * (r + gamma * V)).sum(-1))
        V = Q[-1].max(-1)
    return np.stack(Q[::-1])


def optimal(Q):
    """Which actions some optimal policy takes, at each time and state."""
    return Q.max(-1, keepdims=True) == Q


def potential_based(d, gamma):
    """Eq. 8 for every transition: gamma·d_{t+1}(s') - d_t(s)."""
    return gamma * d[1:, None, None, :] - d[:-1, :, None, None]


def random_mdp(seed):
    """Transitions in quarters, rewards -2 ... 2 and a potential 0 ... 4 for T + 1 times."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(S, size=(T, S, A, 4))
    P = np.eye(S)[successors].mean(3)
    R = rng.integers(-2, 3, size=(T, S, A, S)).astype(float)
    return P, R, rng.integers(0, 5, size=(T + 1, S)).astype(float)


# 1. Where the theorem is true: the potential of the absorbing end is 0.


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("weight", LAMBDAS)
def test_shaping_with_zero_potential_at_the_end_keeps_every_optimal_policy(gamma, weight):
    for seed in SEEDS:
        P, R, d = random_mdp(seed)
        d[-1] = 0
        Q, shaped = solve(P, R, gamma), solve(P, R + weight * potential_based(d, gamma), gamma)
        assert (shaped == Q - weight * d[:-1, :, None]).all()  # the proof: Q~ = Q - lambda·d
        assert (optimal(shaped) == optimal(Q)).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_trajectory_that_starts_and_ends_at_zero_potential_earns_no_shaping(gamma):
    d = torch.tensor([[[0.0, 3.0, 1.0, 4.0, 0.0]]])  # noise, three states, the absorbing end
    discount = gamma ** torch.arange(4)
    assert (discount * step_intrinsic_rewards(d, gamma)).sum() == 0


# 2. Naive shaping: a bonus for diversity wherever it is met, and nothing taken back on leaving.


def two_routes():
    """noise -> latent a -> image A, reward 1; noise -> latent b -> image B, reward 3/4.

    The only choice is the first step's: action 0 goes to a, action 1 to b. States are (a, b).
    """
    P, R = np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 2))
    for action in (0, 1):
        P[0, :, action, action] = 1
    for state in (0, 1):
        P[1, state, :, state] = 1
    R[1, 0], R[1, 1] = 1, 0.75
    return P, R


def choice(bonus):
    """Q of going to a and of going to b, out of the noise."""
    P, R = two_routes()
    return solve(P, R + bonus, gamma=1.0)[0, 0].tolist()


def test_without_shaping_the_better_image_is_optimal():
    assert choice(bonus=0) == [1.0, 0.75]


@pytest.mark.parametrize(
    ("weight", "naive"), [(0.125, [1, 0.875]), (0.25, [1, 1]), (0.5, [1, 1.25])]
)
def test_naive_shaping_moves_the_optimum_where_potential_based_does_not(weight, naive):
    d = np.array([[0.0, 0], [0, 1], [0, 0]])  # latent b is diverse, d(b) = 1; at the end 0
    bonus = np.broadcast_to(d[1:, None, None, :], (2, 2, 2, 2))
    assert choice(weight * bonus) == naive  # 3/4 + lambda: a tie at lambda = 1/4, then worse
    # lambda on entering b, -lambda on leaving it:
    assert choice(weight * potential_based(d, gamma=1.0)) == [1, 0.75]


@pytest.mark.parametrize("weight", LAMBDAS)
def test_naive_shaping_changes_most_random_mdps(weight):
    changed = 0
    for seed in SEEDS:
        P, R, d = random_mdp(seed)
        naive = R + weight * d[1:, None, None, :]
        changed += (optimal(solve(P, naive, 1.0)) != optimal(solve(P, R, 1.0))).any()
    assert changed > len(SEEDS) / 2


# 3. The published form: the trajectory keeps gamma^T·d(x0) (Eq. 9), so the end has a potential.


@pytest.mark.parametrize(
    ("weight", "kept"), [(0.125, [1, 0.875]), (0.25, [1, 1]), (0.5, [1, 1.25])]
)
@pytest.mark.parametrize("on_the_way", [0.0, 1.0, 3.0])
def test_the_kept_terminal_term_moves_the_optimum_from_lambda_a_quarter_on(
    weight, kept, on_the_way
):
    # d(noise) = 0, d(B) = 1. What d is on the way cancels: the choice is 1 against 3/4 + lambda.
    d = np.array([[0.0, 0], [on_the_way, on_the_way], [0, 1]])
    assert choice(weight * potential_based(d, gamma=1.0)) == kept


@pytest.mark.parametrize("gamma", GAMMAS)
def test_keeping_the_terminal_term_is_paying_for_the_diversity_of_the_image(gamma):
    changed = 0
    for seed in SEEDS:
        P, R, d = random_mdp(seed)
        shaped = solve(P, R + 0.5 * potential_based(d, gamma), gamma)
        paid = R.copy()
        paid[-1] += 0.5 * gamma * d[-1]  # on the last step only, whatever d was before
        assert (optimal(shaped) == optimal(solve(P, paid, gamma))).all()
        changed += (optimal(shaped) != optimal(solve(P, R, gamma))).any()
    assert changed > len(SEEDS) / 4


def published(rewards, diversity, weight, sigma=4.0, gamma=1.0, steps=1):
    """R + lambda·clip(gamma^T·d(x0), 0, sigma) of each image (Eq. 9, 12, 13)."""
    R_int = trajectory_intrinsic_reward(torch.tensor([diversity]), gamma, steps)
    return (torch.tensor([rewards]) + weight * clip_intrinsic(R_int, sigma))[0]


def test_the_flip_is_at_the_gap_in_reward_over_the_gap_in_diversity():
    rewards, d = [1.0, 0.75], [0.5, 1.0]  # lambda* = (1 - 3/4) / (1 - 1/2) = 1/2, the paper's
    assert published(rewards, d, weight=0.5).tolist() == [1.25, 1.25]
    assert published(rewards, d, weight=0.375).argmax() == 0
    assert published(rewards, d, weight=0.625).argmax() == 1
    # gamma = 1/2 over T = 2 steps quarters the diversity: lambda* = 4·1/2.
    assert published(rewards, d, weight=2.0, gamma=0.5, steps=2).tolist() == [1.25, 1.25]


def test_at_equal_rewards_any_lambda_decides_the_tie():
    assert published([1.0, 1.0], [0.5, 1.0], weight=2.0**-10).argmax() == 1


@pytest.mark.parametrize(("weight", "sigma"), [(0.5, 1.0), (0.5, 0.25), (2.0, 0.5)])
def test_no_more_reward_is_given_up_than_lambda_times_sigma(weight, sigma):
    generator = torch.Generator().manual_seed(0)
    for _ in SEEDS:
        r, d = torch.randint(0, 33, (2, 16), generator=generator) / 8  # eighths of 0 ... 4
        best = published(r.tolist(), d.tolist(), weight, sigma).argmax()
        assert r.max() - r[best] <= weight * sigma
    # and as much is: 1 - lambda·sigma with d at the clip ties with 1 without.
    tie = published([1.0, 1.0 - weight * sigma], [0.0, 4.0], weight, sigma)
    assert tie.tolist() == [1.0, 1.0]


# 4. The diversity of an image depends on its group. Two modes, A and B, at squared distance 2:
#    their features are e1 and e2.


def near(value):
    return pytest.approx(value, abs=1e-6)  # the square of sqrt 2 is rounded


def group(A, B):
    """d of each image in a group of so many As and so many Bs, As first."""
    return intra_group_diversity(torch.eye(2)[[0] * A + [1] * B][None])


def test_the_same_image_has_another_diversity_in_another_group():
    assert group(A=4, B=0)[0, 0] == 0
    assert group(A=3, B=1)[0, 0].item() == near(2 / 3)  # (0 + 0 + 2) / 3
    assert group(A=1, B=3)[0, 0].item() == near(2)  # (2 + 2 + 2) / 3


def test_in_a_group_of_two_both_are_as_diverse_and_the_bonus_cancels():
    assert torch.equal(group_advantages(group(A=1, B=1)), torch.zeros(1, 2))


def test_the_bonus_for_a_tie_goes_to_the_rarer_mode_and_is_gone_when_there_is_none():
    no_news = group_advantages(torch.ones(1, 4))
    # AAAB: d = (2/3, 2/3, 2/3, 2), mean 1, std sqrt((3·1/9 + 1) / 4) = 1/sqrt 3.
    rarer = combine(no_news, group_advantages(group(A=3, B=1)), weight=0.5)
    expected = torch.tensor([[-1.0, -1.0, -1.0, 3.0]]) / 3**0.5 / 2
    torch.testing.assert_close(rarer, expected, rtol=0, atol=1e-5)
    # AABB: every d is (0 + 2 + 2) / 3.
    balanced = combine(no_news, group_advantages(group(A=2, B=2)), weight=0.5)
    assert torch.equal(balanced, torch.zeros(1, 4))


def test_sigma_below_the_crowds_own_diversity_silences_the_bonus():
    d = group(A=3, B=1)  # 2/3 in the crowd, 2 outside
    assert torch.equal(group_advantages(clip_intrinsic(d, upper=0.5)), torch.zeros(1, 4))
    # Between the two, only the size of the gap is cut, which Eq. 14 normalises away.
    cut, whole = group_advantages(clip_intrinsic(d, upper=1.0)), group_advantages(d)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4)


def mean_over_groups(G, p, of):
    """Mean of of(number of As) over groups of G drawn from a policy that draws A with share p."""
    ways = [1.0]
    for _ in range(G):
        ways = [p * a + (1 - p) * b for a, b in zip([0.0, *ways], [*ways, 0.0], strict=True)]
    return sum(w * of(k) for k, w in enumerate(ways))


def expected_diversity(p, G=4):
    """d of an A and d of a B among G - 1 others drawn from the policy, on average."""
    of_A = mean_over_groups(G - 1, p, lambda k: group(k + 1, G - 1 - k)[0, 0].item())
    of_B = mean_over_groups(G - 1, p, lambda k: group(k, G - k)[0, -1].item())
    return of_A, of_B


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_mean_field_by_hand(p):
    # Each of the others is at 2 if it is of the other mode: d(A) = 2·(1 - p) and d(B) = 2·p.
    assert expected_diversity(p) == near((2 * (1 - p), 2 * p))


@pytest.mark.parametrize(
    ("p", "pull"), [(0.25, 1.0), (0.5, 0.5), (0.75, 0.0), (0.875, -0.25), (1.0, -0.5)]
)
def test_the_pulls_of_reward_and_of_rarity_balance_at_three_quarters(p, pull):
    # r(A) - r(B) = 1/2, lambda = 1/2. d(A) - d(B) = 2·(1 - p) - 2·p = 2 - 4p, so the pull towards
    # A is 1/2 + (2 - 4p)/2 = 3/2 - 2p: zero at p = 1/2 + gap / (4·lambda) = 3/4, where the mean
    # reward is (1 - p)·gap = 1/8 below its maximum.
    of_A, of_B = expected_diversity(p)
    assert 0.5 + 0.5 * (of_A - of_B) == near(pull)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 1.0])
def test_at_lambda_half_the_gap_the_worse_mode_still_dies(p):
    # The same gap, lambda = 1/4: 1/2 + (2 - 4p)/4 = 1 - p, towards A until no B is left.
    of_A, of_B = expected_diversity(p)
    assert 0.5 + 0.25 * (of_A - of_B) == near(1 - p)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_what_is_climbed_is_reward_plus_half_lambda_times_mean_pairwise_distance(p):
    def distance(p):  # 4·p·(1 - p), a parabola: its central difference is its slope
        features = torch.eye(2)
        return mean_over_groups(
            4, p, lambda k: mean_pairwise_distance(features[[0] * k + [1] * (4 - k)][None]).item()
        )

    slope = (distance(p + 0.25) - distance(p - 0.25)) / 0.5
    of_A, of_B = expected_diversity(p)
    assert of_A - of_B == near(slope / 2)


@pytest.mark.parametrize("G", [2, 3, 8])
@pytest.mark.parametrize("p", [0.25, 0.75])
def test_the_groups_own_mean_takes_one_share_of_the_reward_and_two_of_the_diversity(G, p):
    gap, weight = 0.5, 0.5

    def update(k):  # of the log-odds of A, by a group of k As, with its mean as the baseline
        shaped = weight * group(k, G - k)[0]
        shaped[:k] += gap
        score = torch.tensor([1 - p] * k + [-p] * (G - k))
        return (score * (shaped - shaped.mean())).mean().item()

    # The baseline holds r_i/G, and d_i twice: once itself, once in what the others have of it.
    pull = (1 - 1 / G) * gap + (1 - 2 / G) * weight * (2 - 4 * p)
    assert mean_over_groups(G, p, update) == near(p * (1 - p) * pull)


@pytest.mark.parametrize("gap", [1.0, 2.0**-10])
@pytest.mark.parametrize(("weight", "side"), [(0.5, 0.5), (1.0, 0.0), (2.0, -1.0)])
def test_decoupled_lambda_counts_in_standard_deviations(gap, weight, side):
    # AAAB, A better by `gap`: both parts are (1, 1, 1, -3)/sqrt 3 but for the sign, however large
    # the gap. So A is reinforced below lambda = 1, and B above.
    rewards = torch.tensor([[gap, gap, gap, 0.0]])
    got = combine(
        group_advantages(rewards, eps=0.0), group_advantages(group(A=3, B=1), eps=0.0), weight
    )
    torch.testing.assert_close(got, side * torch.tensor([[1.0, 1.0, 1.0, -3.0]]) / 3**0.5)


@pytest.mark.parametrize("A", [1, 2, 3])
def test_decoupled_below_lambda_1_the_better_mode_gains_in_every_mixed_group(A):
    rewards = torch.tensor([[2.0**-10] * A + [0.0] * (4 - A)])
    got = combine(group_advantages(rewards), group_advantages(group(A, 4 - A)), weight=0.5)
    assert (got[0, :A] > 0).all()
    assert (got[0, A:] < 0).all()

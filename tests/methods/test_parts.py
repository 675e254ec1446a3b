import json
from dataclasses import FrozenInstanceError

import pytest
import torch

from drift.errors import UserError
from drift.functional.dynamics import step_sensitivity
from drift.functional.noise import step_noise
from drift.methods.parts import (
    AllSteps,
    BalancedWeights,
    BatchAdvantage,
    BufferedAdvantage,
    CleanPrompt,
    ClippedSurrogate,
    DiversityShaping,
    FirstSteps,
    GivenWeights,
    GroupAdvantage,
    KeepAll,
    NoisedPrompt,
    NoRegulariser,
    NoShaping,
    RandomSteps,
    RandomSubset,
    ReferenceKL,
    RewardConcentrated,
    RewardContrasted,
    SameWeights,
    Shaped,
    WindowSteps,
)
from drift.models.schedules import DDIMSchedule
from drift.types import Conditioned, Group, TextEmbeds


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def advantage_of(part, rewards, intrinsic=None, weight=0.0, prompts=("a", "b"), state=None):
    """What the part makes of plain lists: (Advantages, state)."""
    r = torch.tensor(rewards)
    own = torch.zeros_like(r) if intrinsic is None else torch.tensor(intrinsic)
    group = group_of(torch.zeros(*r.shape, 0), rewards=r, prompts=prompts)
    return part(group, Shaped(own, weight), {} if state is None else state)


def group_of(features, rewards=None, prompts=("a", "b"), steps=10):
    """An epoch's group of samples with these features "P G D"."""
    P, G, _ = features.shape
    rewards = torch.zeros(P, G) if rewards is None else rewards
    return Group(list(prompts[:P]), rewards, features, steps, epoch=1)


# --- selection ---


@pytest.mark.parametrize(
    ("part", "kept"),
    # Concentrated: 6 has its two nearest, 5 and 7, at 1 each. Contrasted: from 20 the two farthest,
    # 0 and 5, lie 20 + 15 away; from 0 it is 20 + 7, from the others 20.
    [(RewardConcentrated(), [1, 2, 3]), (RewardContrasted(), [0, 1, 4])],
)
def test_selection_by_hand_and_without_chance(part, kept):
    generator = seeded()
    before = generator.get_state()
    assert part(torch.tensor([[0.0, 5.0, 6.0, 7.0, 20.0]]), 3, generator).tolist() == [kept]
    assert torch.equal(generator.get_state(), before)


def test_a_random_subset_is_the_generators_and_blind_to_rewards():
    rewards = torch.arange(20.0).view(2, 10)
    chosen = RandomSubset()(rewards, 4, seeded())
    assert chosen.shape == (2, 4)
    assert (chosen.diff() > 0).all()  # ascending, hence distinct
    assert torch.equal(chosen, RandomSubset()(-(rewards**2), 4, seeded()))
    assert not torch.equal(chosen, RandomSubset()(rewards, 4, seeded(1)))
    assert RandomSubset()(rewards, 10, seeded()).tolist() == [list(range(10))] * 2


def test_keep_all_keeps_the_pool_and_nothing_less():
    rewards = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert KeepAll()(rewards, 3, seeded()).tolist() == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match="'none' keeps all 3 candidates, not 2"):
        KeepAll()(rewards, 2, seeded())


# --- conditioning ---


def told(tokens, **extra):
    """A prompt's embeddings, and an unconditional branch that nothing may touch."""
    return Conditioned(TextEmbeds(tokens, extra), TextEmbeds(torch.full_like(tokens, 9.0)))


def test_the_clean_prompt_is_the_prompt():
    embeds, part = told(torch.randn(2, 3, 4, generator=seeded())), CleanPrompt()
    assert part(embeds, torch.ones(2), [1, 2], [0, 0]) is embeds
    assert part.signal_share(embeds, torch.tensor([1.0, 0.5])).tolist() == [1, 1]
    assert part.in_training() == part.at_test() == part


def test_a_noised_prompt_by_hand():
    # gamma(0.7) = 0.5: sqrt(0.5)·e + s·sqrt(0.5)·n; psi = 0 leaves it unrescaled.
    part, e = NoisedPrompt(scale=2.0, mix=0.0), torch.tensor([[[1.0, 3.0]]])
    n = step_noise([7], [3], (1, 2))
    pooled = torch.ones(1, 4)
    given = told(e, pooled=pooled)
    got = part(given, torch.tensor([0.7]), [7], [3])
    assert got.prompt.extra["pooled"] is pooled  # goes along as it is
    assert got.negative is given.negative
    torch.testing.assert_close(got.prompt.tokens, 0.5**0.5 * e + 2 * 0.5**0.5 * n)
    # Rescaled (psi = 1), two numbers can only be the clean mean -+ the clean std: 1 and 3.
    rescaled = NoisedPrompt()(told(e), torch.tensor([1.0]), [7], [3])
    torch.testing.assert_close(rescaled.prompt.tokens.sort().values, e)


def test_the_prompts_noise_is_fixed_by_seed_and_step_wherever_the_sample_stands():
    part, e = NoisedPrompt(), torch.randn(1, 5, 8, generator=seeded())
    t = torch.full((4,), 0.9)
    got = part(told(e.expand(4, 5, 8)), t, [7, 7, 7, 8], [3, 4, 3, 3]).prompt.tokens
    assert torch.equal(got[0], got[2])
    assert not torch.equal(got[0], got[1])  # another step
    assert not torch.equal(got[0], got[3])  # another trajectory
    assert torch.equal(part(told(e), t[:1], [8], [3]).prompt.tokens[0], got[3])


def test_a_noised_prompt_tells_how_much_of_the_prompt_is_left():
    # Variance 1; gamma(0.7) = 0.5: 0.5 / (0.5 + 0.25·0.5) = 0.8.
    part, e = NoisedPrompt(scale=0.5), told(torch.tensor([[[1.0, 3.0]]]))
    share = part.signal_share(e, torch.tensor([1.0, 0.7, 0.4, 0.1]))
    torch.testing.assert_close(share, torch.tensor([0.0, 0.8, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("train", "test"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_prompt_noise_is_switched_for_training_and_test_apart(train, test):
    part = NoisedPrompt(train=train, test=test)
    assert part.in_training() == (part if train else CleanPrompt())
    assert part.at_test() == (part if test else CleanPrompt())
    assert (NoisedPrompt().train, NoisedPrompt().test) == (True, False)


# --- shaping ---


def test_shaping_by_hand():
    # One image apart from two equal ones: squared distances 2 and 0, so d = (2, 1, 1).
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    got, _ = DiversityShaping(upper=4.0)(group_of(features), {})
    assert got.weight == 0.5  # lambda
    torch.testing.assert_close(got.intrinsic, torch.tensor([[2.0, 1.0, 1.0]]))
    got, _ = DiversityShaping()(group_of(features), {})  # sigma = 1
    torch.testing.assert_close(got.intrinsic, torch.ones(1, 3))
    # gamma^T = 0.5^2: 0.5, 0.25, 0.25; of which sigma = 0.3 clips the first.
    got, _ = DiversityShaping(upper=0.3, gamma=0.5)(group_of(features, steps=2), {})
    torch.testing.assert_close(got.intrinsic, torch.tensor([[0.3, 0.25, 0.25]]))


def test_no_shaping_needs_no_features():
    got, state = NoShaping()(group_of(torch.zeros(2, 3, 0)), {"as it": "was"})
    assert got.intrinsic.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert got.weight == NoShaping().weight == 0
    assert state == {"as it": "was"}


# --- advantage ---

REWARDS, INTRINSIC = [[0.0, 0.0, 1.0, 1.0]], [[0.0, 1.0, 1.0, 0.0]]


def test_decoupled_advantages_by_hand():
    # Each has mean 0.5 and std 0.5: A = (-1, -1, 1, 1), A_int = (-1, 1, 1, -1); A + A_int / 2.
    got, _ = advantage_of(GroupAdvantage(), REWARDS, INTRINSIC, weight=0.5)
    torch.testing.assert_close(got.extrinsic, torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))
    torch.testing.assert_close(got.intrinsic, torch.tensor([[-1.0, 1.0, 1.0, -1.0]]))
    torch.testing.assert_close(got.total, torch.tensor([[-1.5, -0.5, 1.5, 0.5]]))


def test_coupled_advantages_by_hand():
    # R + R_int / 2 = (0, 0.5, 1.5, 1): mean 0.75, population std sqrt(5) / 4.
    got, _ = advantage_of(GroupAdvantage(coupled=True), REWARDS, INTRINSIC, weight=0.5)
    torch.testing.assert_close(got.total, torch.tensor([[-3.0, -1.0, 3.0, 1.0]]) / 5**0.5)
    torch.testing.assert_close(got.extrinsic, torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))
    torch.testing.assert_close(got.intrinsic, torch.tensor([[-1.0, 1.0, 1.0, -1.0]]))


def test_only_coupled_advantages_drown_diversity_in_rewards_of_a_large_unit():
    large = [[0.0, 0.0, 1000.0, 1000.0]]
    decoupled, _ = advantage_of(GroupAdvantage(), large, INTRINSIC, weight=0.5)
    torch.testing.assert_close(decoupled.total, torch.tensor([[-1.5, -0.5, 1.5, 0.5]]))
    coupled, _ = advantage_of(GroupAdvantage(coupled=True), large, INTRINSIC, weight=0.5)
    torch.testing.assert_close(coupled.total, decoupled.extrinsic, rtol=0, atol=1e-3)


def test_without_weight_every_form_is_the_extrinsic_advantage():
    parts = [GroupAdvantage(), GroupAdvantage(coupled=True), BatchAdvantage(), BufferedAdvantage()]
    for part in parts:
        got, _ = advantage_of(part, REWARDS, INTRINSIC, weight=0.0)
        assert torch.equal(got.total, got.extrinsic)


def test_batch_advantages_by_hand():
    # Pooled rewards (0, 0, 1, 1); the intrinsic ones by group: (-1, 1), and 0 where all are equal.
    got, _ = advantage_of(BatchAdvantage(), [[0.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [3.0, 3.0]], 0.5)
    torch.testing.assert_close(got.extrinsic, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    torch.testing.assert_close(got.intrinsic, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(got.total, torch.tensor([[-1.5, -0.5], [1.0, 1.0]]))


@pytest.mark.parametrize("part", [BatchAdvantage(), BufferedAdvantage(buffer_size=50)])
def test_ddpos_advantages_are_clipped(part):
    # One outlier of 50 lies sqrt(49) = 7 std above the mean, the others a seventh below it.
    got, _ = advantage_of(part, [[1.0] + [0.0] * 49])
    torch.testing.assert_close(got.extrinsic, torch.tensor([[5.0] + [-1 / 7] * 49]))
    assert got.extrinsic[0, 0] == 5


def test_a_reward_unlike_its_all_equal_buffer_is_clipped_and_not_lost():
    # The buffer holds the latest 4, all 0: the first reward lies any number of std above them.
    got, _ = advantage_of(
        BufferedAdvantage(buffer_size=4, min_count=4), [[1.0, 0.0, 0.0, 0.0, 0.0]]
    )
    assert got.total.tolist() == [[5, 0, 0, 0, 0]]


EPOCHS = [  # prompts, rewards, expected advantages, and the buffers afterwards
    # Two rewards each are fewer than 3: all by the batch (0, 2, 1, 5), mean 2, variance 3.5.
    (
        ("a", "b"),
        [[0.0, 2.0], [1.0, 5.0]],
        torch.tensor([[-2.0, 0.0], [-1.0, 3.0]]) / 3.5**0.5,
        {"a": [0, 2], "b": [1, 5]},
    ),
    # a by its (0, 2, 4, 6), mean 3, variance 5; c by the batch (4, 6, 7, 9): 6.5 and 3.25.
    (
        ("a", "c"),
        [[4.0, 6.0], [7.0, 9.0]],
        torch.tensor([[1 / 5**0.5, 3 / 5**0.5], [0.5 / 3.25**0.5, 2.5 / 3.25**0.5]]),
        {"a": [0, 2, 4, 6], "b": [1, 5], "c": [7, 9]},
    ),
    # a by its latest four (4, 6, 6, 6), mean 5.5, variance 0.75; b by (1, 5, 3, 3), mean 3.
    (
        ("a", "b"),
        [[6.0, 6.0], [3.0, 3.0]],
        torch.tensor([[0.5, 0.5], [0.0, 0.0]]) / 0.75**0.5,
        {"a": [4, 6, 6, 6], "b": [1, 5, 3, 3], "c": [7, 9]},
    ),
]


@pytest.mark.parametrize("through_json", [False, True])
def test_buffered_advantages_over_epochs_by_hand(through_json):
    part, state = BufferedAdvantage(buffer_size=4, min_count=3), {}
    for prompts, rewards, expected, buffers in EPOCHS:
        before = json.dumps(state)
        got, after = advantage_of(part, rewards, prompts=prompts, state=state)
        torch.testing.assert_close(got.total, expected)
        assert after == buffers
        assert json.dumps(state) == before  # what was passed in is left alone
        state = json.loads(json.dumps(after)) if through_json else after


def test_a_buffer_comes_back_from_json_bit_for_bit():
    rewards = torch.randn(2, 20, generator=seeded()).tolist()
    _, state = advantage_of(BufferedAdvantage(), rewards)
    assert [len(row) for row in state.values()] == [16, 16]
    more = torch.randn(2, 20, generator=seeded(1)).tolist()
    straight, _ = advantage_of(BufferedAdvantage(), more, state=state)
    resumed, _ = advantage_of(BufferedAdvantage(), more, state=json.loads(json.dumps(state)))
    assert torch.equal(straight.total, resumed.total)


def test_a_prompt_drawn_twice_in_an_epoch_shares_its_buffer():
    # Both rows by (0, 2, 4, 6): mean 3, variance 5.
    part = BufferedAdvantage(buffer_size=4, min_count=4)
    got, state = advantage_of(part, [[0.0, 2.0], [4.0, 6.0]], prompts=("a", "a"))
    torch.testing.assert_close(got.total, torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / 5**0.5)
    assert state == {"a": [0, 2, 4, 6]}


@pytest.mark.parametrize("part", [GroupAdvantage(), BatchAdvantage()])
def test_advantages_without_a_memory_leave_the_state_alone(part):
    _, state = advantage_of(part, REWARDS, state={"a": [1.0]})
    assert state == {"a": [1.0]}


# --- surrogate and regulariser ---


def test_the_clipped_surrogate_by_hand():
    # Ratios 1, 1.5 and 1.5, clip range 0.1: -2·1, -min(1.5, 1.1), -min(-1.5, -1.1).
    part = ClippedSurrogate(clip_range=0.1)
    log_prob = torch.tensor([0.0, 1.5, 1.5])
    log_prob[1:] = log_prob[1:].log()
    got = part(log_prob, torch.zeros(3), torch.tensor([2.0, 1.0, -1.0]))
    torch.testing.assert_close(got, torch.tensor([-2.0, -1.1, 1.5]))


def test_the_reference_kl_by_hand_and_its_gradient():
    # Errors 2 and 0, mean square 2: over 2·std^2, 1 at std 1 and 4 at std 0.5.
    mean = torch.tensor([[2.0, 0.0], [2.0, 0.0]], requires_grad=True)
    std, t = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.1])
    penalty = ReferenceKL().penalty(mean, torch.zeros(2, 2), std, t)
    torch.testing.assert_close(penalty, torch.tensor([1.0, 4.0]))
    penalty.sum().backward()
    # d/dm of m^2 / 2 / (2·std^2) = m / (2·std^2)
    torch.testing.assert_close(mean.grad, torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    group = group_of(torch.zeros(1, 2, 0))
    assert NoRegulariser()(group, {}) == (0, {})
    assert ReferenceKL()(group, {}) == (0.001, {})


# --- timesteps ---


def test_the_steps_that_are_trained_on():
    assert AllSteps()(2, 3, 1, seeded()).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert FirstSteps(fraction=0.3)(2, 10, 7, seeded()).tolist() == [[0, 1, 2], [0, 1, 2]]
    drawn = RandomSteps(fraction=0.5)(3, 10, 1, seeded())
    assert drawn.shape == (3, 5)
    assert len({tuple(row) for row in drawn.tolist()}) == 3  # each prompt its own
    assert torch.equal(drawn, RandomSteps(fraction=0.5)(3, 10, 2, seeded()))
    # Two of four steps, a step later every second epoch.
    window = WindowSteps(size=2, every=2)
    starts = [window(1, 4, epoch, seeded())[0].tolist() for epoch in range(1, 8)]
    assert starts == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 3], [2, 3], [0, 1]]


# --- all of them ---


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (NoisedPrompt, {"tau1": 0.9, "tau2": 0.4}, r"tau1 \(0.9\) must be below tau2 \(0.4\)"),
        (NoisedPrompt, {"tau1": 1.0}, r"tau1 \(1.0\) must be below tau2 \(1.0\)"),
        (NoisedPrompt, {"scale": -0.1}, "scale\n.*greater than or equal to 0 "),
        (NoisedPrompt, {"mix": 1.5}, "mix\n.*less than or equal to 1 "),
        (DiversityShaping, {"weight": -1.0}, "weight\n.*greater than or equal to 0 "),
        (DiversityShaping, {"upper": 0.0}, "upper\n.*greater than or equal to "),
        (BufferedAdvantage, {"min_count": 17}, r"min_count \(17\) must lie in \[2, buffer_size"),
        (BufferedAdvantage, {"min_count": 1}, "min_count\n.*greater than or equal to 2 "),
        (ClippedSurrogate, {"clip_range": 0.0}, "clip_range\n.*greater than or equal to "),
        (ClippedSurrogate, {"clip_range": 1.0}, "clip_range\n.*less than 1 "),
        (ReferenceKL, {"weight": -0.001}, "weight\n.*greater than or equal to 0 "),
        (FirstSteps, {"fraction": 0.0}, "fraction\n.*greater than or equal to "),
        (RandomSteps, {"fraction": 0.0}, "fraction\n.*greater than or equal to "),
        (RandomSteps, {"fraction": 1.1}, "fraction\n.*less than or equal to 1 "),
        (WindowSteps, {"size": 0}, "size\n.*greater than or equal to 1 "),
        (WindowSteps, {"every": 0}, "every\n.*greater than or equal to 1 "),
    ],
)
def test_impossible_parts_are_refused_by_field_and_value(part, fields, message):
    with pytest.raises(ValueError, match=message):
        part(**fields)


def test_parts_are_frozen():
    with pytest.raises(FrozenInstanceError):
        NoisedPrompt().scale = 1.0


def schedule_of(alphas, last):
    alphas = torch.tensor(alphas)
    following = torch.cat([alphas[1:], torch.tensor([last])])
    return DDIMSchedule(torch.arange(len(alphas)), alphas, following, torch.ones(len(alphas)))


def test_same_weights_are_ones():
    assert SameWeights()(schedule_of([0.1, 0.5, 0.9], 1.0), 1.0).tolist() == [1, 1, 1]


def test_balanced_weights_are_the_inverse_of_the_steps_sensitivities():
    # From alpha 0.36 to 0.64 the sensitivity is 0.4375 / sqrt(0.24609375), as worked out there.
    schedule = schedule_of([0.04, 0.36, 0.64], 1.0)
    weights = BalancedWeights()(schedule, 1.0)
    sensitivity = step_sensitivity(schedule.alphas, schedule.next_alphas, 1.0)
    assert weights[:2].mean().item() == pytest.approx(1.0)
    products = weights[:2] * sensitivity[:2]
    assert products[0].item() == pytest.approx(products[1].item())
    assert weights[0] > weights[1]
    assert weights[2] == 0  # draws no noise, and is never trained


def test_given_weights_keep_their_ratios_and_have_mean_1_where_noise_is_drawn():
    schedule = schedule_of([0.04, 0.16, 0.36, 0.64], 1.0)
    noisy = schedule.noisy(1.0)
    weights = GivenWeights((8.0, 4.0, 2.0, 1.0))(schedule, 1.0)
    assert weights[noisy].mean().item() == pytest.approx(1)
    assert (weights[0] / weights[2]).item() == pytest.approx(4)
    assert weights[~noisy].abs().sum() == 0


def test_given_weights_of_another_number_of_steps_are_refused():
    with pytest.raises(UserError, match="method.weighting.weights: 2 weights for 4 steps"):
        GivenWeights((1.0, 1.0))(schedule_of([0.04, 0.16, 0.36, 0.64], 1.0), 1.0)
    for wrong, told in (((), "not all 0"), ((1.0, -1.0), "equal to 0"), ((0.0, 0.0), "not all 0")):
        with pytest.raises(ValueError, match=told):
            GivenWeights(wrong)

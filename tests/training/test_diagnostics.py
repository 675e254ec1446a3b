import pytest
import torch

from drift.methods.parts import Advantages
from drift.training.diagnostics import (
    WINDOW,
    describe_advantages,
    describe_diversity,
    describe_rewards,
    warnings,
)


def test_rewards_by_hand():
    # Mean 3 and population std sqrt 5 of the pool; mean 1 and std 1 of what is kept.
    told = describe_rewards(torch.tensor([[0.0, 2.0, 4.0, 6.0]]), torch.tensor([[0.0, 2.0]]))
    assert told == pytest.approx(
        {
            "reward_mean": 3,
            "reward_std": 5**0.5,
            "kept_reward_mean": 1,
            "kept_reward_std": 1,
            "kept_mean_shift": -2 / 5**0.5,
            "kept_std_ratio": 1 / 5**0.5,
            "unique_rewards": 2,
        }
    )


def test_a_pool_of_equal_rewards_has_no_say_in_shift_and_spread():
    pool = torch.tensor([[0.0, 2.0, 4.0, 6.0], [0.1, 0.1, 0.1, 0.1]])
    told = describe_rewards(pool, pool[:, :2])
    assert told["kept_mean_shift"] == pytest.approx(-2 / 5**0.5)
    assert told["kept_std_ratio"] == pytest.approx(1 / 5**0.5)
    assert told["unique_rewards"] == 1  # of the poorest group
    alone = describe_rewards(pool[1:], pool[1:, :2])
    assert (alone["kept_mean_shift"], alone["kept_std_ratio"]) == (0, 1)


def test_keeping_all_neither_shifts_nor_narrows():
    pool = torch.tensor([[0.3, 0.9, 0.7], [5.0, 1.0, 1.0]])
    told = describe_rewards(pool, pool)
    assert (told["kept_mean_shift"], told["kept_std_ratio"]) == (0, 1)
    assert told["unique_rewards"] == 2


def test_diversity_by_hand():
    # One image apart from two equal ones: d = (2, 1, 1), clipped at 1 to (1, 1, 1).
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    told = describe_diversity(features, torch.tensor([[1.0, 1.0, 0.5]]), upper=1.0)
    expected = {"diversity": 4 / 3, "intrinsic_mean": 2.5 / 3, "intrinsic_clipped": 2 / 3}
    assert told == pytest.approx(expected)


def test_without_an_encoder_there_is_no_diversity_and_nothing_is_clipped():
    told = describe_diversity(torch.zeros(2, 3, 0), torch.zeros(2, 3), upper=float("inf"))
    assert told == {"diversity": None, "intrinsic_mean": 0, "intrinsic_clipped": 0}


def test_advantages_by_hand():
    extrinsic, intrinsic = torch.tensor([[-2.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    told = describe_advantages(Advantages(extrinsic + 0.5 * intrinsic, extrinsic, intrinsic))
    # Squares 4, 0, 4 and 1, 0, 1 and, for the total of (-1.5, 0, 1.5), 2.25, 0, 2.25; over 3.
    assert told["advantages"].keys() == {"total", "extrinsic", "intrinsic"}
    for name, variance, largest in [
        ("extrinsic", 8 / 3, 2.0),
        ("intrinsic", 2 / 3, 1.0),
        ("total", 1.5, 1.5),
    ]:
        expected = {"mean": 0, "std": variance**0.5, "abs_max": largest}
        assert told["advantages"][name] == pytest.approx(expected)


HEALTHY = {
    "update": 1,
    "prompt_signal": [0.5] * 10,
    "first_clip_fraction": 0.05,
    "unique_rewards": 8,
    "intrinsic_clipped": 0.0,
    "intrinsic_mean": 0.6,
    "advantages": {"intrinsic": {"abs_max": 2.0}},
    "diversity": 0.75,
    "kept_mean_shift": 0.0,
    "kept_std_ratio": 0.6,
}


def epochs(count=WINDOW, **changes):
    """That many epochs of two updates each."""
    line = HEALTHY | changes
    return [line, line | {"update": 2}] * count


def test_a_healthy_run_is_left_in_peace():
    assert warnings([]) == {}
    assert warnings(epochs(1)) == {}
    assert warnings(epochs(50)) == {}
    assert warnings(epochs(diversity=None)) == {}  # no encoder


@pytest.mark.parametrize(
    ("signal", "warned"),
    [
        ([0.0] + [1.0] * 9, True),  # one step of ten
        ([0.0] + [1.0] * 49, False),  # one of fifty, as in the paper
        ([0.0] * 5 + [1.0] * 45, True),
        ([0.049] + [1.0] * 9, True),
        ([0.05] + [1.0] * 9, False),
        ([1.0] * 10, False),
    ],
)
def test_prompt_noise_that_drowns_the_prompt_is_told_at_once(signal, warned):
    told = warnings(epochs(1, prompt_signal=signal))
    assert ("prompt_signal" in told) == warned
    if warned:
        assert f"of {len(signal)} steps" in told["prompt_signal"]
        assert "method.conditioning.tau2" in told["prompt_signal"]


def test_a_group_of_equal_rewards_is_told_at_once_and_only_of_the_latest_epoch():
    assert "teaches nothing" in warnings(epochs(1, unique_rewards=1))["unique_rewards"]
    assert warnings(epochs(1, unique_rewards=2)) == {}
    assert warnings([*epochs(1, unique_rewards=1), *epochs(1)]) == {}


def test_a_bonus_equal_for_a_whole_group_is_told():
    equal = {"advantages": {"intrinsic": {"abs_max": 0.0}}}
    assert "same for every image" in warnings(epochs(1, **equal))["intrinsic_equal"]
    assert warnings(epochs(1, intrinsic_mean=0.0, **equal)) == {}  # no shaping at all


@pytest.mark.parametrize(
    ("name", "bad", "fine", "sentence"),
    [
        ("intrinsic_clipped", 0.34, 0.33, "sigma clips 34% of the intrinsic rewards"),
        ("kept_mean_shift", -0.11, -0.09, "score 0.11 std below their pools, 10 epochs long"),
        ("kept_std_ratio", 0.09, 0.11, "spread 9% of their pools'"),
    ],
)
def test_what_lasts_is_told_after_ten_epochs(name, bad, fine, sentence):
    told = warnings(epochs(10, **{name: bad}))
    assert told.keys() == {name}
    assert sentence in told[name]
    assert warnings(epochs(9, **{name: bad})) == {}
    assert warnings(epochs(10, **{name: fine})) == {}


def test_the_mean_of_the_latest_ten_epochs_counts():
    bad, fine = {"kept_mean_shift": -0.2}, {"kept_mean_shift": 0.0}
    assert "kept_mean_shift" in warnings([*epochs(9, **bad), *epochs(1, **fine)])  # -0.18
    assert warnings([*epochs(4, **bad), *epochs(6, **fine)]) == {}  # -0.08
    assert warnings([*epochs(50, **bad), *epochs(10, **fine)]) == {}


def test_the_warning_of_a_small_sigma_says_what_to_set():
    told = warnings(epochs(intrinsic_clipped=0.9, diversity=1.2))["intrinsic_clipped"]
    assert "method.shaping.upper to about 1.3 times" in told
    assert "(now 1.20)" in told


def test_a_kept_mean_above_the_pools_is_no_fault():
    assert warnings(epochs(kept_mean_shift=0.8)) == {}


def test_a_first_update_that_is_clipped_is_told():
    told = warnings(epochs(1, first_clip_fraction=0.06))["first_clip_fraction"]
    assert told.startswith("6% of the first update is clipped")
    assert "optimizer.old_log_probs=replay" in told

import pytest
import torch

from drift.functional.intervals import bootstrap_interval, crossed_interval


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bootstrap_interval_of_two_values():
    values = torch.tensor([0.0, 1.0])  # the mean of two draws is 0, 1/2, 1 in 1/4, 1/2, 1/4
    assert bootstrap_interval(values, seeded()) == (0, 1)
    assert bootstrap_interval(values, seeded(), confidence=0.3) == (0.5, 0.5)


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = torch.randn(400, generator=seeded(1))
    mean, half = values.mean().item(), 1.96 * values.std().item() / 20
    low, high = bootstrap_interval(values, seeded())
    assert low == pytest.approx(mean - half, abs=0.01)
    assert high == pytest.approx(mean + half, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seeded())


def test_bootstrap_interval_of_a_constant_is_a_point():
    assert bootstrap_interval(torch.full((5,), 0.25), seeded()) == (0.25, 0.25)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(torch.ones(1), seeded())


def test_the_draws_of_a_seed_stay_what_they_were():
    # Recorded before the function moved here: published intervals come from these draws.
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert bootstrap_interval(values, seeded()) == pytest.approx((2.0, 11.6))
    assert bootstrap_interval(values, seeded(3), 0.8, 500) == pytest.approx((3.2, 9.2))


def test_a_constant_has_a_point_for_a_crossed_interval():
    assert crossed_interval(torch.full((3, 7), 0.25), seeded()) == (0.25, 0.25)


def test_where_the_seed_alone_counts_the_seeds_alone_are_resampled():
    # As of two values: 0, 1/2, 1 in 1/4, 1/2, 1/4, however many prompts there are.
    values = torch.tensor([[0.0], [1.0]]).expand(2, 50)
    assert crossed_interval(values, seeded()) == (0, 1)
    assert crossed_interval(values, seeded(), confidence=0.3) == (0.5, 0.5)


def test_where_the_prompt_alone_counts_it_is_the_interval_over_prompts():
    prompts = torch.randn(60, generator=seeded(1))
    crossed = crossed_interval(prompts.expand(4, 60), seeded(), resamples=8000)
    plain = bootstrap_interval(prompts, seeded(), resamples=8000)
    assert crossed == pytest.approx(plain, abs=0.02)  # of a width of 0.5
    # Rows taken for independent values would halve it.
    pooled = bootstrap_interval(prompts.repeat(4), seeded())
    assert pooled[1] - pooled[0] < 0.6 * (crossed[1] - crossed[0])


def test_the_variances_of_seeds_and_prompts_add_up():
    # a_s + b_p with a in ±0.3 and b in ±1, ten of each sign: the mean of a resample has variance
    # (0.09 + 1) / 20, nearly normal.
    signs = torch.tensor([-1.0, 1.0]).repeat(10)
    low, high = crossed_interval(0.3 * signs[:, None] + signs, seeded(), resamples=8000)
    half = 1.96 * (1.09 / 20) ** 0.5
    assert (low, high) == pytest.approx((-half, half), rel=0.06)


def test_one_seed_or_one_prompt_is_the_plain_interval():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    plain = bootstrap_interval(values, seeded())
    assert crossed_interval(values[None], seeded()) == plain
    assert crossed_interval(values[:, None], seeded()) == plain
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        crossed_interval(torch.ones(1, 1), seeded())


def test_a_prompt_without_a_value_is_left_out():
    values = torch.randn(2, 30, generator=seeded(1))
    values[:, 7] = values[1, 3] = torch.nan
    # The prompt without a value in any seed: as if it had not been asked.
    asked = torch.arange(30) != 7
    assert crossed_interval(values, seeded()) == crossed_interval(values[:, asked], seeded())
    # A seed without any value is no seed: one is left, so over prompts alone.
    known = torch.randn(30, generator=seeded(1))
    silent = torch.stack([known, torch.full((30,), torch.nan)])
    assert crossed_interval(silent, seeded()) == bootstrap_interval(known, seeded())


def test_the_mean_is_of_the_values_that_a_block_holds():
    # Blocks of seeds {1, 1}, {1, 2}, {2, 2} by prompts {1, 1}, {1, 2}, {2, 2}: 1 wherever there is
    # a value, so never 0 from a missing one; {2, 2} x {2, 2} has none and is not counted.
    values = torch.tensor([[1.0, 1.0], [1.0, torch.nan]])
    assert crossed_interval(values, seeded()) == (1, 1)


def test_a_crossed_interval_is_that_of_its_generator():
    values = torch.randn(3, 9, generator=seeded(1))
    assert crossed_interval(values, seeded(2)) == crossed_interval(values, seeded(2))
    assert crossed_interval(values, seeded(2)) != crossed_interval(values, seeded(3))


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="values must be finite"):
        crossed_interval(torch.tensor([[1.0, torch.inf], [1.0, 2.0]]), seeded())
    with pytest.raises(ValueError, match="at least 2 values, got 0"):
        crossed_interval(torch.full((2, 3), torch.nan), seeded())

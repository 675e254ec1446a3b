import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from drift.functional.flow import flow_sensitivity, flow_step

FORMS = ["sde", "cps"]


def column(*values: float) -> torch.Tensor:
    return torch.tensor([[value] for value in values])


def test_a_step_of_the_sde_by_hand():
    # s = 0.5 -> 0.4, x = 1, v = 0.4: x0 = 0.8, eps = 1.2. a = 0.5: g^2 = 0.25·0.5/0.5 = 0.25.
    # mean = 0.6·0.8 + (0.4 - 0.25·0.1/1)·1.2 = 0.48 + 0.375·1.2 = 0.93; std = sqrt(0.025).
    half, next_ = torch.tensor(0.5), torch.tensor(0.4)
    mean, std = flow_step(column(1.0), column(0.4), half, next_, 0.5, sigma_max=0.9)
    torch.testing.assert_close(mean, column(0.93))
    assert std.item() == pytest.approx(0.025**0.5)
    moved = flow_sensitivity(half[None], next_[None], 0.5, sigma_max=0.9)
    # d mean / dv = -0.5·0.6 + 0.5·0.375 = -0.1125
    assert moved.item() == pytest.approx(0.1125 / 0.025**0.5)


def test_a_coefficients_preserving_step_by_hand():
    # The same state; a = 1/3: sin(pi/6) = 0.5, std = 0.2; eps keeps sqrt(0.16 - 0.04) of its 0.4.
    mean, std = flow_step(
        column(1.0),
        column(0.4),
        torch.tensor(0.5),
        torch.tensor(0.4),
        1 / 3,
        sigma_max=0.9,
        form="cps",
    )
    torch.testing.assert_close(mean, column(0.48 + 0.12**0.5 * 1.2))
    assert std.item() == pytest.approx(0.2)


def test_the_first_step_takes_the_second_sigma_for_its_diffusion():
    # s = 1 -> 0.9: g^2 = a^2·1/(1 - 0.9) = 10·a^2; a = 0.3: 0.9, h = 0.1; std = 0.3.
    one, next_ = torch.tensor(1.0), torch.tensor(0.9)
    mean, std = flow_step(column(2.0), column(0.5), one, next_, 0.3, sigma_max=0.9)
    assert std.item() == pytest.approx(0.3)
    # x0 = 1.5, eps = 2: 0.1·1.5 + (0.9 - 0.9·0.1/2)·2 = 0.15 + 1.71
    torch.testing.assert_close(mean, column(1.86))


@pytest.mark.parametrize("form", FORMS)
def test_a_step_to_the_picture_is_deterministic(form):
    mean, std = flow_step(
        column(1.0),
        column(0.4),
        torch.tensor(0.25),
        torch.tensor(0.0),
        0.7,
        sigma_max=0.9,
        form=form,
    )
    torch.testing.assert_close(mean, column(0.9))  # x0
    assert std == 0
    assert (
        flow_sensitivity(
            torch.tensor([0.25]), torch.tensor([0.0]), 0.7, sigma_max=0.9, form=form
        ).item()
        == math.inf
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_without_noise_a_step_is_diffusers_own(form, shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, 3, generator=generator)
    for k, t in enumerate(scheduler.timesteps):
        v = torch.randn(x.shape, generator=generator)
        here, following = scheduler.sigmas[k], scheduler.sigmas[k + 1]
        mean, std = flow_step(x, v, here, following, 0.0, sigma_max=0.9, form=form)
        x = scheduler.step(v, t, x).prev_sample
        torch.testing.assert_close(mean, x, rtol=0, atol=1e-6)
        assert std == 0


def course(form: str, a: float, steps: int, data_std: float, data_mean: float = 0.7):
    """Mean and std of x after every step where the data are normal: exact, nothing is drawn.

    The best velocity is then linear in x, and so is a step: two points tell it.
    """
    sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    mean, var, found = torch.tensor(0.0), torch.tensor(1.0), []
    for s, n in pairwise(sigmas):
        x = column(0.0, 1.0)
        spread = (1 - s) ** 2 * data_std**2 + s**2
        off = x - (1 - s) * data_mean
        v = s / spread * off - (data_mean + (1 - s) * data_std**2 / spread * off)  # E[eps - x0 | x]
        ends, std = flow_step(x, v, s, n, a, sigma_max=sigmas[1].item(), form=form)
        slope = ends[1, 0] - ends[0, 0]
        mean, var = ends[0, 0] + slope * mean, slope**2 * var + std**2
        found.append((n.item(), mean.item(), var.item()))
    return found


@pytest.mark.parametrize("a", [0.0, 0.7, 1.2])
def test_the_sde_has_the_marginals_of_the_ode(a):
    """Ever better the smaller the steps, once the made-up diffusion of sigma 1 is forgotten."""
    worst = [
        max(
            max(abs(mean - (1 - n) * 0.7), abs(var - ((1 - n) ** 2 * 0.09 + n**2)))
            for n, mean, var in course("sde", a, steps, data_std=0.3)
            if n <= 0.5
        )
        for steps in (50, 200, 800)
    ]
    assert worst[0] > worst[1] > worst[2]
    assert worst[2] < 0.003


@pytest.mark.parametrize("a", [0.7, 1.2])
def test_the_first_step_of_the_sde_spreads_too_much_whatever_its_size(a):
    n, _, var = course("sde", a, 800, data_std=0.3)[0]
    assert var - n**2 == pytest.approx(a**4 / 4, rel=0.02)


@pytest.mark.parametrize("a", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("steps", [4, 20])
def test_coefficients_are_preserved_at_any_step_size(a, steps):
    """Exactly so where x0 is known, as for one single picture."""
    for n, mean, var in course("cps", a, steps, data_std=0.0):
        assert mean == pytest.approx((1 - n) * 0.7, abs=1e-6)
        assert var == pytest.approx(n**2, abs=1e-6)


def test_where_the_picture_is_uncertain_coefficients_preserving_steps_lose_spread():
    """By s^2·(1 - cos)^2·(1 - s^2/V) a step, in the limit of small steps; not so the SDE."""
    (*_, sde), (*_, cps) = (course(form, 0.7, 800, data_std=0.3)[-1] for form in FORMS)
    assert sde == pytest.approx(0.09, rel=0.01)
    assert cps == pytest.approx(0.065, abs=0.001)


def test_the_kl_of_a_step_in_closed_form():
    # For s < 1: KL = h·(1 + a^2/2)^2·(1 - s)/(2·a^2·s)·dv^2.
    s, n, a, dv = torch.tensor(0.6), torch.tensor(0.45), 0.7, 0.3
    (one, std), (two, _) = (
        flow_step(column(1.0), column(v), s, n, a, sigma_max=0.9) for v in (0.5, 0.5 + dv)
    )
    kl = (one - two).square() / (2 * std**2)
    expected = 0.15 * (1 + a**2 / 2) ** 2 * 0.4 / (2 * a**2 * 0.6) * dv**2
    assert kl.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_each_sample_may_have_its_own_time_and_noise(form):
    x, v = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    s, n, a = (
        torch.tensor([1.0, 0.6, 0.2]),
        torch.tensor([0.9, 0.4, 0.0]),
        torch.tensor([0.7, 0.0, 0.7]),
    )
    mean, std = flow_step(x, v, s, n, a, sigma_max=0.9, form=form)
    for k in range(3):
        row = slice(k, k + 1)
        one, spread = flow_step(x[row], v[row], s[k], n[k], a[k].item(), sigma_max=0.9, form=form)
        torch.testing.assert_close(mean[row], one)
        torch.testing.assert_close(std[k], spread)

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal

from drift.functional.dynamics import (
    clean_and_noise,
    ddim_step,
    gaussian_log_prob,
    guide,
    step_sensitivity,
)


def test_ddim_step_by_hand():
    x, eps = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    a_t, a_prev = torch.tensor(0.36), torch.tensor(0.64)
    # x0 = (1 - 0.8·0.5) / 0.6 = 1. At eta 0: 0.8·1 + 0.6·0.5 = 1.1.
    mean, std = ddim_step(x, eps, a_t, a_prev, eta=0.0)
    torch.testing.assert_close(mean, torch.tensor([[1.1]]))
    assert std == 0
    # At eta 1: std^2 = 0.36/0.64 · (1 - 0.36/0.64) = 0.5625·0.4375 = 0.24609375;
    # direction = sqrt(1 - 0.64 - 0.24609375) = 0.3375; mean = 0.8 + 0.3375·0.5 = 0.96875.
    mean, std = ddim_step(x, eps, a_t, a_prev, eta=1.0)
    torch.testing.assert_close(mean, torch.tensor([[0.96875]]))
    torch.testing.assert_close(std, torch.tensor(0.24609375).sqrt())


def test_ddim_step_with_a_fifth_of_the_noise_by_hand():
    # alpha 1/3, x0 = sqrt 2, eps = 1: x = sqrt(2/3) + sqrt(2/3). At eta 1 the variance would be
    # (1/2) / (2/3) · (1 - (1/3) / (1/2)) = 1/4; at eta 1/5 it is 1/100, std 0.1, and
    # direction = sqrt(1 - 1/2 - 1/100) = 0.7; mean = sqrt(1/2)·sqrt(2) + 0.7 = 1.7.
    x = torch.full((1, 1), 2 * (2 / 3) ** 0.5)
    mean, std = ddim_step(x, torch.ones(1, 1), torch.tensor(1 / 3), torch.tensor(0.5), eta=0.2)
    torch.testing.assert_close(mean, torch.tensor([[1.7]]))
    torch.testing.assert_close(std, torch.tensor(0.1))


def test_the_sensitivity_of_a_step_by_hand():
    # alpha 0.36 -> 0.64 at eta 1: std^2 0.24609375, direction 0.3375 (see above). The velocity
    # moves x0 by -0.8 and eps by 0.6: |0.8·(-0.8) + 0.3375·0.6| = 0.4375, over sqrt(0.24609375).
    a_t, a_prev = torch.tensor([0.36, 0.64]), torch.tensor([0.64, 1.0])
    sensitivity = step_sensitivity(a_t, a_prev, eta=1.0)
    assert sensitivity[0].item() == pytest.approx(0.4375 / 0.24609375**0.5)
    assert sensitivity[1] == math.inf  # without noise


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_sensitivity_is_how_far_the_mean_moves(eta):
    a_t, a_prev = torch.tensor([0.1, 0.5]), torch.tensor([0.3, 0.9])
    x, v = torch.zeros(2, 1), torch.ones(2, 1)
    moved, std = ddim_step(x, v, a_t, a_prev, eta, "v")
    expected = moved[:, 0].abs() / std
    torch.testing.assert_close(step_sensitivity(a_t, a_prev, eta), expected)


def test_ddim_step_to_the_clean_image_lands_on_x0_without_noise():
    x, eps = torch.tensor([[1.0]]), torch.tensor([[0.5]])  # x0 = 1, as in the first test
    mean, std = ddim_step(x, eps, torch.tensor(0.36), torch.tensor(1.0), eta=1.0)
    torch.testing.assert_close(mean, torch.tensor([[1.0]]))
    assert std == 0


def test_ddim_step_that_stands_still_changes_nothing():
    x, eps = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]])
    mean, std = ddim_step(x, eps, torch.tensor(0.36), torch.tensor(0.36), eta=1.0)
    torch.testing.assert_close(mean, x)
    assert std == 0


@pytest.mark.parametrize(
    ("prediction_type", "prediction"), [("epsilon", "epsilon"), ("v_prediction", "v")]
)
def test_ddim_step_equals_diffusers(prediction_type, prediction):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
    )
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    for t in scheduler.timesteps:
        predicted, z = torch.randn(2, *x.shape, generator=generator)
        previous = t - 1000 // 50
        a_t = scheduler.alphas_cumprod[t]
        a_prev = (
            scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.alphas_cumprod[0]
        )
        mean, std = ddim_step(x, predicted, a_t, a_prev, 1.0, prediction)
        theirs = scheduler.step(predicted, t, x, eta=1.0, variance_noise=z).prev_sample
        torch.testing.assert_close(mean + std * z, theirs, rtol=0, atol=1e-6)
        x = theirs
    assert 0.02 < std < 0.021  # the last step is still a policy


def test_ddim_step_takes_one_time_per_sample():
    x, eps = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    a_t, a_prev = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.6, 0.95])
    mean, std = ddim_step(x, eps, a_t, a_prev, eta=1.0)
    for i in range(3):
        one_mean, one_std = ddim_step(x[i : i + 1], eps[i : i + 1], a_t[i], a_prev[i], eta=1.0)
        torch.testing.assert_close(mean[i : i + 1], one_mean)
        torch.testing.assert_close(std[i], one_std)


def test_ddim_step_is_float32_whatever_the_network_returns():
    x, eps = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    a_t, a_prev = torch.tensor(0.36), torch.tensor(0.64)
    mean, std = ddim_step(x, eps, a_t, a_prev, eta=1.0)
    assert mean.dtype == std.dtype == torch.float32
    assert torch.equal(mean, ddim_step(x.float(), eps.float(), a_t, a_prev, eta=1.0)[0])


def test_ddim_step_refuses_more_noise_than_ddpm():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="eta=1.5"):
        ddim_step(one, one, torch.tensor(0.36), torch.tensor(0.64), eta=1.5)
    with pytest.raises(ValueError, match="eta=-0.1"):
        ddim_step(one, one, torch.tensor(0.36), torch.tensor(0.64), eta=-0.1)


def test_gaussian_log_prob_by_hand():
    # Errors 2 and 0 at std 2: mean of -4/8 and 0 is -0.25; then -ln 2 - ln(2·pi)/2.
    got = gaussian_log_prob(
        torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor(2.0)
    )
    expected = -0.25 - math.log(2) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_gaussian_log_prob_at_the_mean_is_zero_where_the_density_is_one():
    x = torch.zeros(1, 3)
    std = torch.tensor(1 / math.sqrt(2 * math.pi))  # the peak of a density is 1 / (std·sqrt(2·pi))
    torch.testing.assert_close(gaussian_log_prob(x, x, std), torch.zeros(1))
    torch.testing.assert_close(gaussian_log_prob(x, x, 2 * std), torch.tensor([-math.log(2)]))


def test_gaussian_log_prob_does_not_depend_on_the_size_of_the_latents():
    small, large = (torch.ones(1, n) for n in (4, 16384))
    torch.testing.assert_close(
        gaussian_log_prob(small, 0 * small, torch.tensor(0.5)),
        gaussian_log_prob(large, 0 * large, torch.tensor(0.5)),
    )


def test_gaussian_log_prob_is_the_mean_per_sample():
    x, mean = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    std = torch.tensor([0.02, 0.5, 1.0])
    expected = Normal(mean, std.view(3, 1, 1, 1)).log_prob(x).mean((1, 2, 3))
    torch.testing.assert_close(gaussian_log_prob(x, mean, std), expected)


def test_a_deterministic_step_has_no_log_probability_and_no_gradient():
    mean = torch.zeros(2, 4, requires_grad=True)
    got = gaussian_log_prob(torch.ones(2, 4), mean, torch.tensor([1.0, 0.0]))
    assert got[0].item() == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))
    assert got[1] == 0
    got.sum().backward()
    assert mean.grad.tolist() == [[0.25] * 4, [0.0] * 4]


def test_each_sample_may_have_its_own_noise_level():
    x, eps = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    a_t, a_prev = torch.tensor(0.36), torch.tensor(0.64)
    mean, std = ddim_step(x, eps, a_t, a_prev, torch.tensor([0.0, 1.0]))
    for row, eta in enumerate([0.0, 1.0]):
        one, spread = ddim_step(x[row : row + 1], eps[row : row + 1], a_t, a_prev, eta)
        torch.testing.assert_close(mean[row : row + 1], one)
        torch.testing.assert_close(std[row], spread)


def test_what_a_prediction_stands_for_by_hand():
    # alpha 0.64, x0 = 1, eps = 0.5: x = 0.8 + 0.3 = 1.1 and v = 0.8·0.5 - 0.6·1 = -0.2.
    x, alpha = torch.tensor([[1.1]]), torch.tensor([0.64])
    for prediction, output in [("epsilon", 0.5), ("v", -0.2)]:
        x0, eps = clean_and_noise(x, torch.tensor([[output]]), alpha, prediction)
        torch.testing.assert_close(x0, torch.tensor([[1.0]]))
        torch.testing.assert_close(eps, torch.tensor([[0.5]]))


def test_velocity_is_noise_in_a_clean_image_and_all_is_noise_where_no_signal_is():
    x, v = torch.tensor([[3.0], [3.0]]), torch.tensor([[5.0], [5.0]])
    x0, eps = clean_and_noise(x, v, torch.tensor([1.0, 0.0]), "v")
    assert eps.tolist() == [[5.0], [3.0]]  # alpha 1: eps = v; 0: eps = x
    assert x0.tolist() == [[3.0], [-5.0]]  # alpha 1: x0 = x; 0: x0 = -v


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 3.0), (5.0, 11.0)])
def test_guide(scale, expected):
    got = guide(torch.tensor([[1.0]]), torch.tensor([[3.0]]), scale)  # 1 + scale·2
    assert torch.equal(got, torch.tensor([[expected]]))

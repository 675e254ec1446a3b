import pytest
import torch

from drift.functional.dynamics import gaussian_log_prob
from drift.functional.kl import gaussian_kl
from drift.functional.surrogate import approx_kl, clip_fraction, clipped_surrogate


def test_clipped_surrogate_by_hand():
    log_prob = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    # clip 0.2: max(-1.5, -1.2), max(1.5, 1.2), max(-0.5, -0.8), max(0.5, 0.8)
    got = clipped_surrogate(log_prob, torch.zeros(4), advantages, clip_range=0.2)
    torch.testing.assert_close(got, torch.tensor([-1.2, 1.5, -0.5, 0.8]))


def test_gradient_is_minus_the_advantage_until_the_clip_stops_it():
    log_prob = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0])
    clipped_surrogate(log_prob, torch.zeros(5), advantages, clip_range=0.2).sum().backward()
    # d(-A·rho)/d(log rho) = -A·rho; it stops only where going further would improve the objective
    torch.testing.assert_close(log_prob.grad, torch.tensor([-2.0, 0.0, -1.0, 3.0, 0.0]))


def test_first_update_is_exact():
    log_prob = torch.linspace(-3.0, 1.0, 7)
    advantages = torch.linspace(-2.0, 2.0, 7)
    assert torch.equal(clipped_surrogate(log_prob, log_prob, advantages, 1e-4), -advantages)
    assert clip_fraction(log_prob, log_prob, 1e-4) == 0
    assert approx_kl(log_prob, log_prob, 16) == 0


def test_clip_fraction_counts_both_sides():
    log_prob = torch.tensor([1.5, 0.5, 1.1, 1.0]).log()
    assert clip_fraction(log_prob, torch.zeros(4), clip_range=0.2) == 0.5


def test_approx_kl_by_hand():
    log_prob = torch.tensor([0.2, -0.4])  # of 3 elements: joint 0.6 and -1.2, (0.36 + 1.44) / 4
    got = approx_kl(log_prob, torch.zeros(2), elements=3)
    torch.testing.assert_close(got, torch.tensor(0.45 / 3))  # per element


def test_approx_kl_is_that_of_two_gaussians():
    """Equal std 0.5, means 0.01 apart in every element: KL = 0.01^2 / (2 * 0.5^2) = 2e-4 each."""
    generator = torch.Generator().manual_seed(0)
    std, shift, D = torch.tensor(0.5), 0.01, 1024
    old_mean = torch.zeros(4000, D)
    x = old_mean + std * torch.randn(4000, D, generator=generator)
    new, old = (gaussian_log_prob(x, mean, std) for mean in (old_mean + shift, old_mean))
    assert approx_kl(new, old, D).item() == pytest.approx(2e-4, rel=0.1)
    assert gaussian_kl(old_mean, old_mean + shift, std)[0].item() == pytest.approx(2e-4, rel=1e-4)


def test_approx_kl_survives_tiny_ratios():
    got = approx_kl(torch.full((4,), 1e-5), torch.zeros(4), elements=1)
    torch.testing.assert_close(got, torch.tensor(5e-11), rtol=1e-5, atol=0)


def test_advantage_zero_gives_no_gradient_whatever_the_ratio():
    log_prob = torch.tensor([0.5, 1.0, 2.0]).log().requires_grad_()
    loss = clipped_surrogate(log_prob, torch.zeros(3), torch.zeros(3), clip_range=0.2)
    loss.sum().backward()
    assert torch.equal(loss.detach().abs(), torch.zeros(3))
    assert torch.equal(log_prob.grad.abs(), torch.zeros(3))


def test_the_papers_clip_range_is_told_apart_in_float32():
    # exp(x) - 1 = x + x²/2: 0.99e-4 stays below 1e-4, 1.01e-4 does not; likewise downwards.
    log_prob = torch.tensor([0.99e-4, 1.01e-4, -0.99e-4, -1.01e-4])
    old = torch.zeros(4)
    assert [clip_fraction(x[None], old[:1], 1e-4).item() for x in log_prob] == [0, 1, 0, 1]
    got = clipped_surrogate(log_prob, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), 1e-4)
    expected = torch.tensor([-1 - 0.99e-4, -1 - 1e-4, 1 - 0.99e-4, 1 - 1e-4])
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-7)

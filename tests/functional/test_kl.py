import torch
from torch.distributions import Normal, kl_divergence

from drift.functional.dynamics import gaussian_log_prob
from drift.functional.kl import gaussian_kl


def test_by_hand():
    mean, ref = torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # mean(4, 0) / (2·4) = 0.25; mean(0, 1) / (2·0.25) = 1
    got = gaussian_kl(mean, ref, torch.tensor([2.0, 0.5]))
    assert torch.equal(got, torch.tensor([0.25, 1.0]))


def test_equals_torch_distributions():
    mean, ref = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean, 0.3), Normal(ref, 0.3)).mean((1, 2, 3))
    torch.testing.assert_close(gaussian_kl(mean, ref, torch.tensor(0.3)), expected)


def test_zero_at_the_reference():
    mean = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gaussian_kl(mean, mean, torch.tensor(0.1)), torch.zeros(2))


def test_gradient_reaches_the_policy():
    mean = torch.tensor([[3.0, 1.0]], requires_grad=True)
    gaussian_kl(mean, torch.ones(1, 2), torch.tensor(2.0)).sum().backward()
    # (m - m_ref) / (std^2 · elements) = (2, 0) / 8
    torch.testing.assert_close(mean.grad, torch.tensor([[0.25, 0.0]]))


def test_a_step_without_noise_has_no_kl_and_no_gradient():
    mean = torch.ones(2, 2, requires_grad=True)
    kl = gaussian_kl(mean, torch.zeros(2, 2), torch.tensor([0.0, 0.5]))
    assert kl.tolist() == [0, 2]  # 1 / (2·0.25)
    kl.sum().backward()
    assert mean.grad.tolist() == [[0, 0], [2, 2]]


def test_one_standard_deviation_apart_costs_half_a_nat():
    mean = torch.tensor([[0.5, -1.0, 2.0]])
    assert gaussian_kl(mean, mean - 0.25, torch.tensor(0.25)).item() == 0.5


def test_is_the_log_ratio_at_the_mean():
    # E[log p - log q] under p: the two squared errors differ by (m - m_ref)^2 on average, as at m.
    mean, ref, std = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor(2.0)
    ratio = gaussian_log_prob(mean, mean, std) - gaussian_log_prob(mean, ref, std)
    torch.testing.assert_close(gaussian_kl(mean, ref, std), ratio)
    torch.testing.assert_close(ratio, torch.tensor([2.5 / 8]))

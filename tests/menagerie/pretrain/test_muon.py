import pytest
import torch
from torch import nn

from drift.menagerie.pretrain.muon import ADAM_SHARE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_every_direction_of_an_orthogonal_step_is_about_as_long(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(u * torch.linspace(0.05, 1, len(s)) @ v)
    strength = (u.T @ found @ v.T).diagonal()
    assert strength.min() > 0.6 and strength.max() < 1.25
    torch.testing.assert_close((u * strength) @ v, found, rtol=0, atol=1e-4)


def test_a_kernels_first_step_is_as_long_as_the_rate_says():
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3).to(memory_format=torch.channels_last))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    Muon([kernel], lr=0.01).step()
    # 32 orthogonal rows of length about 1 among 32 x 144 numbers, times 0.2 sqrt(144)
    assert kernel.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.2)


def test_what_is_no_matrix_is_left_to_adam():
    ours = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(20, 3))]
    adams = [nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours, lr=0.1, weight_decay=0.01)
    adam = torch.optim.AdamW(adams, lr=0.1 * ADAM_SHARE, weight_decay=0.01)
    for turn in range(3):
        for one, other in zip(ours, adams, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(turn))
            other.grad = one.grad.clone()
        muon.step()
        adam.step()
    for one, other in zip(ours, adams, strict=True):
        torch.testing.assert_close(one, other)

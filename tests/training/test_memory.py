import pytest
import torch
from torch import nn

from drift.training.memory import StorageCount, free_memory, peak_memory

CPU, KB = torch.device("cpu"), 1024
SIDE = 16  # a float32 square of it takes 1 KB


def square():
    return torch.ones(SIDE, SIDE)


def test_what_lives_at_once_is_counted_and_what_is_gone_is_not():
    def work():
        one = square()
        two = one + 1  # 2 KB
        del one
        three = two * 2  # 2 KB, and not 3
        del two
        return three.sum()  # 4 bytes beside the last

    assert peak_memory(work, CPU) == 2 * KB


def test_views_and_what_is_written_in_place_take_nothing():
    before = square()

    def work():
        before.add_(1)
        return before.view(-1)[::2], before.unsqueeze(0), before.expand(4, SIDE, SIDE)

    assert peak_memory(work, CPU) == 0


def test_a_view_keeps_its_storage():
    with StorageCount() as count:
        row = square()[0]
        assert count.now == KB
        del row
        assert count.now == 0
    assert count.peak == KB


def test_what_a_backward_pass_needs_is_counted():
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(SIDE, SIDE), nn.Tanh()) for _ in range(8)])
    x = torch.ones(SIDE, SIDE)

    def forward():
        with torch.no_grad():
            layers(x)

    def backward():
        torch.autograd.grad(layers(x).sum(), list(layers.parameters()))

    assert peak_memory(forward, CPU) == 3 * KB  # a pair's input and what its two layers make
    # Every layer's tanh is kept; a linear layer's output is needed by nothing.
    assert 8 * KB < peak_memory(backward, CPU) <= 8 * KB + 8 * (KB + 4 * SIDE) + 3 * KB


def test_free_memory_is_what_the_machine_has():
    assert 2**20 < free_memory(CPU) < 2**50


@pytest.mark.gpu
def test_on_cuda_the_allocator_tells():
    device = torch.device("cuda")
    held = torch.ones(2**20, device=device)
    peak = peak_memory(lambda: held + 1, device)
    assert 4 * 2**20 <= peak <= 6 * 2**20
    assert 2**20 < free_memory(device) <= torch.cuda.get_device_properties(0).total_memory

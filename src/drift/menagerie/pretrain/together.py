"""Several processes that train one part: those that torchrun starts."""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> tuple[int, int]:
    """(rank, count) of torchrun's processes, joined at the first call; (0, 1) without torchrun."""
    if not dist.is_initialized():
        if "WORLD_SIZE" not in os.environ:
            return 0, 1
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def summed(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor's sum over the processes, in one exchange."""
    if processes()[1] == 1:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    count, gradients = processes()[1], [p.grad for p in parameters if p.grad is not None]
    if count > 1:
        for gradient, total in zip(gradients, summed(gradients), strict=True):
            gradient.copy_(total / count)


def agreed(value: float) -> float:
    """The first process's value, so that all of them stop at one step."""
    if not dist.is_initialized():
        return value
    told = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(told, 0)
    return told.item()

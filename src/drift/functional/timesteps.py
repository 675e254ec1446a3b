"""Which denoising steps of a trajectory are trained on (ours; the paper trains on all of them).

A subset is drawn per prompt and shared by its whole group, whose rewards would otherwise not be
comparable. DDPO's and Flow-GRPO's `timestep_fraction` and MixGRPO's sliding window are the models.
"""

import torch
from jaxtyping import Int
from torch import Generator, Tensor


def all_steps(prompts: int, steps: int) -> Int[Tensor, "P {steps}"]:
    """Every step, for every prompt."""
    return torch.arange(steps).expand(prompts, steps)


def first_steps(prompts: int, steps: int, fraction: float) -> Int[Tensor, "P K"]:
    """The noisiest `fraction` of the steps, at least one: those that decide what is drawn."""
    return torch.arange(max(1, round(fraction * steps))).expand(prompts, -1)


def random_steps(
    prompts: int, steps: int, fraction: float, generator: Generator
) -> Int[Tensor, "P K"]:
    """A random `fraction` of the steps, at least one, drawn anew for every prompt; ascending."""
    keep = max(1, round(fraction * steps))
    order = torch.rand(prompts, steps, generator=generator).argsort(1)
    return order[:, :keep].sort(1).values


def window_steps(prompts: int, steps: int, size: int, epoch: int, every: int) -> Int[Tensor, "P K"]:
    """`size` steps in a row, the same for all; one later every `every` epochs, then from the start.

    `epoch` counts from 1. A window longer than the trajectory is the whole of it.
    """
    size = min(size, steps)
    start = (epoch - 1) // every % (steps - size + 1)
    return torch.arange(start, start + size).expand(prompts, size)

"""Counter-based noise (ours): every draw is a pure function of what it is for.

A trajectory's noise depends on its own seed alone, never on batch size, order or rank, and is what
plain diffusers draws from `torch.Generator().manual_seed(seed)`: first the latents, then each step.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def derive_seed(*counters: int) -> int:
    """A 63-bit seed for (run seed, epoch, prompt, candidate, ...): equal counters, equal seed."""
    digest = hashlib.sha256(",".join(map(str, counters)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def trajectory_noise(
    seeds: list[int], latent_shape: tuple[int, ...], steps: int
) -> Float[Tensor, "{steps}+1 B *latent"]:
    """Standard normal start (row 0) and step noise (rows 1 to T) of each trajectory."""
    rows = []
    for seed in seeds:
        generator = Generator().manual_seed(seed)
        rows += [
            torch.stack([torch.randn(latent_shape, generator=generator) for _ in range(steps + 1)])
        ]
    return torch.stack(rows, dim=1)


def step_noise(seeds: list[int], step: list[int], shape: tuple[int, ...]) -> Float[Tensor, "B ..."]:
    """Standard normal noise of `shape` for each (trajectory seed, step), for the prompt."""
    draws = [
        torch.randn(shape, generator=Generator().manual_seed(derive_seed(seed, k)))
        for seed, k in zip(seeds, step, strict=True)
    ]
    return torch.stack(draws)

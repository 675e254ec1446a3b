"""The reward-diversity frontier of a run's checkpoints (DRIFT, Section 6, Figure 10).

Both coordinates are better when larger. The hypervolume and the intervals are ours: the paper
reports points, without either.
"""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor


def frontier(reward: Float[Tensor, "N"], diversity: Float[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Mask of the points that no other dominates (DRIFT, Figure 10).

    One point dominates another if it is no worse in both and better in one; twins both stay.
    """
    if reward.isnan().any() or diversity.isnan().any():  # NaN is never dominated
        raise ValueError("a frontier needs numbers, got nan")
    no_worse = (reward[:, None] >= reward) & (diversity[:, None] >= diversity)
    better = (reward[:, None] > reward) | (diversity[:, None] > diversity)
    return ~(no_worse & better).any(0)


def hypervolume(
    reward: Float[Tensor, "N"],
    diversity: Float[Tensor, "N"],
    origin: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Area between `origin` and the frontier (Zitzler & Thiele; not in the paper).

    From the highest reward down, each strip is as tall as the best diversity met so far.
    """
    width, order = (reward.double() - origin[0]).clamp(min=0).sort(descending=True)
    height = (diversity.double() - origin[1]).clamp(min=0)[order].cummax(0).values
    return (-width.diff(append=width.new_zeros(1)) * height).sum().item()


def bootstrap_interval(
    values: Float[Tensor, "N"],
    generator: Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron; not in the paper).

    `values` are independent draws: one per seed or per prompt, not one per image of a prompt.
    """
    N = len(values)
    if N < 2:
        raise ValueError(f"an interval needs at least 2 values, got {N}")
    draws = torch.randint(N, (resamples, N), generator=generator, device=generator.device)
    means = values.double()[draws.to(values.device)].mean(1)
    tail = (1 - confidence) / 2
    return means.quantile(tail).item(), means.quantile(1 - tail).item()

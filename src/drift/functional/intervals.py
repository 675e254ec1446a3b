"""Bootstrap intervals over prompts and training seeds (ours: the paper reports points)."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def crossed_interval(
    values: Float[Tensor, "S P"],
    generator: Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of the mean over S seeds and P prompts (pigeonhole bootstrap, Owen 2007).

    Seeds and prompts are drawn anew independently of one another, so that it tells how the mean
    would move with other seeds and other prompts; with one seed, with other prompts alone.
    """
    S, P = values.shape
    if S * P < 2:
        raise ValueError(f"an interval needs at least 2 values, got {S * P}")
    seeds = torch.randint(S, (resamples, S, 1), generator=generator)
    prompts = torch.randint(P, (resamples, 1, P), generator=generator)
    means = values.double()[seeds, prompts].mean((1, 2))
    tail = (1 - confidence) / 2
    return means.quantile(tail).item(), means.quantile(1 - tail).item()

"""What training seeds allow to say: intervals and tests over them, by Student's t.

A seed is one draw of a training; prompts of one training are no substitute for a second seed. With
two seeds an interval is wide and no test can find much: that is as it should be.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

Interval = tuple[float, float] | tuple[None, None]


def over_seeds(values: Float[Tensor, "S"], confidence: float = 0.95) -> Interval:
    """Interval of the mean over training seeds; (None, None) for a single one."""
    S = len(values)
    if S < 2:
        return None, None
    reach = float(stats.t.ppf((1 + confidence) / 2, S - 1)) * values.double().std().item()
    middle = values.double().mean().item()
    return middle - reach / math.sqrt(S), middle + reach / math.sqrt(S)


@dataclass(frozen=True)
class Paired:
    """A mean difference of pairs that share their training seed."""

    seeds: int
    mean: float
    low: float | None
    high: float | None
    p_value: float | None  # two-sided paired t-test; None where no spread was seen


def paired(ours: Float[Tensor, "S"], theirs: Float[Tensor, "S"]) -> Paired:
    """Ours less theirs, seed by seed.

    Without interval and p-value for a single pair, and for pairs that all differ by the same, as
    shares of few pictures may: their spread is a coincidence, and no measure of what seeds do.
    """
    gaps = ours.double() - theirs.double()
    S, mean = len(gaps), gaps.mean().item()
    spread = gaps.std().item() if S > 1 else 0.0
    if spread <= 1e-6 * torch.cat([ours, theirs]).abs().max().item():  # rounding
        return Paired(S, mean, None, None, None)
    t = mean / (spread / math.sqrt(S))
    return Paired(S, mean, *over_seeds(gaps), float(2 * stats.t.sf(abs(t), S - 1)))

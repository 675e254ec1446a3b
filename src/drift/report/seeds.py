"""What training seeds allow to say: intervals and tests over them, by Student's t.

A seed is one draw of a training; prompts of one training are no substitute for a second seed. With
two seeds an interval is wide and no test can find much: that is as it should be.
"""

import math
from dataclasses import dataclass

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
    p_value: float | None  # two-sided paired t-test; None for a single pair


def paired(ours: Float[Tensor, "S"], theirs: Float[Tensor, "S"]) -> Paired:
    """Ours less theirs, seed by seed."""
    gaps = ours.double() - theirs.double()
    low, high = over_seeds(gaps)
    p_value = None
    if len(gaps) > 1:
        # Equal gaps have no spread: t is infinite, or 0 / 0 where they are all 0.
        spread, mean = gaps.std().item(), gaps.mean().item()
        t = mean / (spread / math.sqrt(len(gaps))) if spread else math.inf * mean if mean else 0.0
        p_value = float(2 * stats.t.sf(abs(t), len(gaps) - 1))
    return Paired(len(gaps), gaps.mean().item(), low, high, p_value)

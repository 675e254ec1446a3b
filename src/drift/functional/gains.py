"""How much one run's checkpoints gain over a baseline at equal cost (DRIFT, Section 6, Table 1).

A run is a set of checkpoints, each a point (reward, diversity), both better when larger. Rewards
are normalised before, diversities are positive: a gain is relative to the baseline's. The paper
takes the checkpoint that slightly exceeds the baseline's coordinate, so that the gain is a lower
bound. Ours beside it: the gain by interpolation along the frontier. Neither extrapolates: where no
checkpoint reaches the baseline's coordinate, a gain is NaN.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from drift.functional.pareto import frontier

By = Literal["exceeding", "interpolation"]


def diversity_gain(
    ours: Float[Tensor, "N 2"], baseline: Float[Tensor, "M 2"], by: By = "exceeding"
) -> Float[Tensor, "M"]:
    """DG: relative gain in diversity over each baseline point, at (at least) its reward."""
    return _gain(ours, baseline, by)


def reward_gain(
    ours: Float[Tensor, "N 2"], baseline: Float[Tensor, "M 2"], by: By = "exceeding"
) -> Float[Tensor, "M"]:
    """RG: relative gain in normalised reward over each baseline point, at its diversity."""
    return _gain(ours.flip(1), baseline.flip(1), by)


def normalise_rewards(rewards: Float[Tensor, "N"], low: float, high: float) -> Float[Tensor, "N"]:
    """To [0, 1] by bounds that all compared runs share; recorded beside the figures (ours)."""
    if not low < high:
        raise ValueError(f"bounds of rewards need low < high, got {low} and {high}")
    return (rewards.double() - low) / (high - low)


def _gain(ours: Tensor, baseline: Tensor, by: By) -> Tensor:
    """Gain in the second coordinate at the first's of each baseline point."""
    ours, baseline = ours.double(), baseline.double()
    if not (ours.isfinite().all() and baseline.isfinite().all()):
        raise ValueError("gains need finite points")
    reach = _exceeding if by == "exceeding" else _interpolated
    values = torch.stack([reach(ours, at) for at in baseline[:, 0]])
    theirs = baseline[:, 1]
    return torch.where(theirs > 0, values / theirs - 1, torch.nan)


def _exceeding(ours: Tensor, at: Tensor) -> Tensor:
    """Second coordinate of the point whose first exceeds `at` least; of several, the lowest."""
    enough = ours[ours[:, 0] >= at]
    if not len(enough):
        return at.new_tensor(torch.nan)
    return enough[enough[:, 0] == enough[:, 0].min(), 1].min()


def _interpolated(ours: Tensor, at: Tensor) -> Tensor:
    """Second coordinate at `at`, on straight lines between the frontier's neighbours.

    Below the frontier's first point it is that point's: with no less of the first coordinate.
    """
    points = ours[frontier(ours[:, 0], ours[:, 1])]
    x, order = points[:, 0].sort()
    y = points[order, 1]
    if at > x[-1]:
        return at.new_tensor(torch.nan)
    right = int(torch.searchsorted(x, at))  # the first that is not less
    if right == 0 or x[right] == at:
        return y[right]
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + share * (y[right] - y[right - 1])

"""The reward-diversity frontier of a run's checkpoints (DRIFT, Section 6, Figure 10).

Both coordinates are better when larger. The hypervolume is ours: the paper reports points.
"""

from jaxtyping import Bool, Float
from torch import Tensor


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

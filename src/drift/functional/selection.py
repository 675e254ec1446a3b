"""Which G of a prompt's C candidates to train on (DRIFT, Section 5.1 and Appendix E).

Ours: ties go to the lowest index, the indices come back in ascending order, and distances are
float64, in which float32 rewards subtract without rounding, so that a tie is a true tie.
`random_subset` is the control that spends as many sampled images without looking at them.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor


def reward_concentrated(rewards: Float[Tensor, "P C"], keep: int) -> Int64[Tensor, "P {keep}"]:
    """Reward-concentrated subset (DRIFT, App. E): the candidate whose keep - 1 nearest others
    in reward are nearest in sum, and those others."""
    return _cheapest_star(_distances(rewards, keep), keep)


def reward_contrasted(rewards: Float[Tensor, "P C"], keep: int) -> Int64[Tensor, "P {keep}"]:
    """Reward-contrasted subset (DRIFT, App. E, the ablation): the candidate whose keep - 1
    farthest others in reward are farthest in sum, and those others."""
    return _cheapest_star(-_distances(rewards, keep), keep)


def random_subset(
    rewards: Float[Tensor, "P C"], keep: int, generator: Generator
) -> Int64[Tensor, "P {keep}"]:
    """A uniformly random subset (ours): the control at an equal number of sampled images.

    Takes the rewards like its two siblings, for their shape and device only.
    """
    _check(rewards, keep)
    noise = torch.rand(rewards.shape, generator=generator, device=generator.device)
    return noise.argsort(1)[:, :keep].sort(1).values.to(rewards.device)


def _distances(rewards: Float[Tensor, "P C"], keep: int) -> Float64[Tensor, "P C C"]:
    """D_ij = |r_i - r_j| (DRIFT, App. E)."""
    _check(rewards, keep)
    r = rewards.double()
    return (r[:, :, None] - r[:, None, :]).abs()


def _cheapest_star(cost: Float64[Tensor, "P C C"], keep: int) -> Int64[Tensor, "P {keep}"]:
    """The centre i* = argmin_i of the sum of its keep - 1 smallest costs, with those leaves."""
    P, C, _ = cost.shape
    own = torch.eye(C, dtype=torch.bool, device=cost.device)
    # The centre sorts first, ahead of any twin; its own cost, D_ii = 0, adds nothing to the sum.
    star = cost.masked_fill(own, -torch.inf).argsort(dim=2, stable=True)[:, :, :keep]
    centre = cost.gather(2, star).sum(2).argmin(1)
    return star[torch.arange(P, device=cost.device), centre].sort(1).values


def _check(rewards: Float[Tensor, "P C"], keep: int) -> None:
    if not 2 <= keep <= rewards.shape[1]:
        raise ValueError(f"cannot keep {keep} of {rewards.shape[1]} candidates (keep 2 or more)")
    finite = rewards.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"rewards must be finite, got {rewards[~finite][0].tolist()}")

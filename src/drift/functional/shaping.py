"""Diversity by potential-based reward shaping (DRIFT, Section 5.3).

The potential d is 0 for pure noise, so the shaping rewards of a trajectory telescope to
gamma^T·d(x0), which is all that training needs. Theorem 1 (the optimal policies do not change)
holds on a finite horizon only if the potential of the end is 0 too. The method as published keeps
gamma^T·d(x0), which depends on the policy: lambda and sigma are trade-offs, not free. See
docs/theorem1.md.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def intra_group_diversity(features: Float[Tensor, "P G D"]) -> Float[Tensor, "P G"]:
    """d(x0^i) = 1/(G-1)·sum_{j != i} ||E(x0^i) - E(x0^j)||^2 (DRIFT, Eq. 10-11).

    Features are L2-normalised here, so d lies in [0, 4]; identical images get exactly 0.
    """
    G = features.shape[1]
    if G < 2:
        raise ValueError(f"diversity compares at least 2 images, got G={G}")
    if not features.isfinite().all():  # one NaN would reach every advantage of its group
        raise ValueError("diversity needs finite features")
    E = normalize(features, dim=2)
    # Not 2 - 2·cos: differences keep small distances exact.
    distance = torch.cdist(E, E, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square().sum(2) / (G - 1)


def step_intrinsic_rewards(
    potential: Float[Tensor, "P G S"], gamma: float
) -> Float[Tensor, "P G S-1"]:
    """R_int(s, a, s') = gamma·d(s') - d(s) along a trajectory of S states (DRIFT, Eq. 8)."""
    return gamma * potential[..., 1:] - potential[..., :-1]


def trajectory_intrinsic_reward(
    diversity: Float[Tensor, "P G"], gamma: float, steps: int
) -> Float[Tensor, "P G"]:
    """sum_t gamma^t·R_int = gamma^T·d(x0) (DRIFT, Eq. 9), T = `steps`, d of pure noise = 0."""
    return gamma**steps * diversity


def clip_intrinsic(r: Float[Tensor, "P G"], upper: float) -> Float[Tensor, "P G"]:
    """clip(R_int, 0, sigma) (DRIFT, Eq. 13)."""
    return r.clamp(0, upper)

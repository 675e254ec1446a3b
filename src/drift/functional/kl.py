"""KL to the frozen reference (DRIFT, Eq. 1; the baseline grpo-kl, beta = 0.001).

Named precisely, since repositories differ: the exact KL of one denoising step between two
Gaussians of equal std, with the factor 1 / (2·std^2), averaged over latent elements as the
log-probability is. The paper does not say which estimator it uses; this one has no variance.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from drift.functional.dynamics import PerSample


def gaussian_kl(
    mean: Float[Tensor, "B *latent"], mean_ref: Float[Tensor, "B *latent"], std: PerSample
) -> Float32[Tensor, "B"]:
    """KL(pi_theta || pi_ref) of one step (DRIFT, Eq. 1): mean((m - m_ref)^2) / (2·std^2).

    0 where a step draws no noise (std = 0): it is no action.
    """
    std = std.float()
    error = (mean.float() - mean_ref.float()).square().flatten(1).mean(1)
    return torch.where(std == 0, 0.0, error / (2 * torch.where(std == 0, 1.0, std) ** 2))

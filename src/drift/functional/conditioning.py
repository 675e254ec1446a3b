"""Noise-conditioned prompting (DRIFT, Section 5.2 and Appendix F; after CADS, Sadat et al.).

Ours: the noise is an argument, never drawn here, so that re-scoring sees exactly the conditioning
that was sampled under; mean and std are per sample, over (tokens, channels).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def anneal(t: Float[Tensor, "*shape"], tau1: float, tau2: float) -> Float[Tensor, "*shape"]:
    """gamma(t), the share of the clean prompt that is left (DRIFT, Eq. 35).

    t lies in [0, 1], 1 = pure noise; gamma is 1 up to tau1, 0 from tau2 on, linear between.
    """
    if not tau1 < tau2:
        raise ValueError(f"anneal needs tau1 < tau2, got tau1={tau1}, tau2={tau2}")
    ramp = ((tau2 - t) / (tau2 - tau1)).clamp(0, 1)
    return torch.where(t <= tau1, 1.0, ramp)  # not left to rounding: gamma(tau1) is exactly 1


def perturb_embedding(
    embedding: Float[Tensor, "B L D"],
    t: Float[Tensor, "B"],
    noise: Float[Tensor, "B L D"],
    scale: float,
    tau1: float,
    tau2: float,
    mix: float,
) -> Float[Tensor, "B L D"]:
    """Perturbed prompt embedding (DRIFT, Eq. 34, 36, 37): s = `scale`, psi = `mix`.

    Where gamma(t) = 1 the embedding comes back bit for bit. Where gamma(t) = 0 nothing of the
    prompt is left but its mean and std, and at psi = 1 the scale s then cancels out.
    """
    e, n = embedding.float(), noise.float()
    gamma = anneal(t.float(), tau1, tau2)[:, None, None]

    noisy = gamma.sqrt() * e + scale * (1 - gamma).sqrt() * n
    std, mean = torch.std_mean(noisy, dim=(1, 2), correction=0, keepdim=True)
    std_clean, mean_clean = torch.std_mean(e, dim=(1, 2), correction=0, keepdim=True)
    # A constant has no spread to rescale: it becomes the clean mean, not NaN.
    rescaled = (noisy - mean) / std.clamp(min=1e-12) * std_clean + mean_clean
    mixed = mix * rescaled + (1 - mix) * noisy
    return torch.where(gamma == 1, embedding, mixed.to(embedding.dtype))


def signal_share(
    embedding: Float[Tensor, "B L D"],
    t: Float[Tensor, "T"],
    scale: float,
    tau1: float,
    tau2: float,
) -> Float[Tensor, "T"]:
    """Share of a perturbed embedding's variance that is the prompt's (ours; Eq. 7), by time.

    gamma·v / (gamma·v + s^2·(1 - gamma)), v the clean embedding's variance, averaged over B. Not
    changed by the rescaling of Eq. 36. 0 means that the step is taken without any prompt.
    """
    gamma = anneal(t.float(), tau1, tau2)
    kept = embedding.float().var((1, 2), correction=0)[:, None] * gamma
    return (kept / (kept + scale**2 * (1 - gamma)).clamp(min=1e-30)).mean(0)

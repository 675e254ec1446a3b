"""The clipped policy-gradient objective (DRIFT, Section 3, GRPO), as a loss to be minimised.

A log-probability here is the mean over latent elements (see `dynamics`), so the ratio is the
D-th root of the joint ratio of D latent elements: clip_range = 1e-4 at D = 16,384 (SD 1.5) bounds
the joint log-ratio to about 1.64 nats. Latents of another size want another clip range.
"""

from jaxtyping import Float
from torch import Tensor, maximum


def clipped_surrogate(
    log_prob: Float[Tensor, "B"],
    old_log_prob: Float[Tensor, "B"],
    advantages: Float[Tensor, "B"],
    clip_range: float,
) -> Float[Tensor, "B"]:
    """-min(rho·A, clip(rho, 1 - eps, 1 + eps)·A) per sample and step (PPO; DRIFT, Section 3)."""
    rho = (log_prob - old_log_prob).exp()
    return maximum(-advantages * rho, -advantages * rho.clamp(1 - clip_range, 1 + clip_range))


def clip_fraction(
    log_prob: Float[Tensor, "B"], old_log_prob: Float[Tensor, "B"], clip_range: float
) -> Float[Tensor, ""]:
    """Share of ratios outside [1 - eps, 1 + eps]; 0 at the first update if the replay is exact."""
    rho = (log_prob - old_log_prob).exp()
    return ((rho - 1).abs() > clip_range).to(log_prob.dtype).mean()


def approx_kl(
    log_prob: Float[Tensor, "B"], old_log_prob: Float[Tensor, "B"], elements: int
) -> Float[Tensor, ""]:
    """KL(old || new) per latent element, from samples of old (Schulman's k2).

    k2 is the mean of (log joint ratio)^2 / 2. A log-probability here is the mean over the latent's
    D = `elements`, so the joint log-ratio is D times theirs, and the KL per element D times the
    mean of their (log rho)^2 / 2: comparable with `kl.gaussian_kl`. Not k3, rho - 1 - log rho: at
    |log rho| ~ 1e-5 it cancels to nothing in float32.
    """
    return 0.5 * elements * (log_prob - old_log_prob).square().mean()

"""One denoising step as a Gaussian policy (DRIFT, Section 3: the MDP of Eq. 2).

The action is x_{t-1}, drawn from N(mean, std^2 I). Two departures from the usual code: everything
is float32 whatever the network's dtype, because a clip range of 1e-4 leaves no room for half
precision; and a log-probability is the mean, not the sum, over latent elements (ours), so that
the clip range does not depend on the size of the latents.
"""

import math

from jaxtyping import Float, Float32, Float64
from torch import Tensor, float32, promote_types

# One value for the whole batch, or one per sample.
PerSample = Float[Tensor, ""] | Float[Tensor, "B"]


def ddim_step(
    sample: Float[Tensor, "B *latent"],
    noise_pred: Float[Tensor, "B *latent"],
    alpha_t: PerSample,
    alpha_prev: PerSample,
    eta: float,
) -> tuple[Float32[Tensor, "B *latent"], PerSample]:
    """Mean and standard deviation of x_{t-1} given x_t (DDIM, Eq. 12 and 16; eta = 1 in DRIFT).

    `alpha_t` and `alpha_prev` are cumulative products (diffusers' `alphas_cumprod`) at this time
    and at the next, less noisy one. At alpha_prev = 1, or at eta = 0, std is 0 and the step is no
    longer a policy: keep `set_alpha_to_one` False.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got eta={eta}")
    a_t, a_prev = alpha_t.float(), alpha_prev.float()

    std = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
    direction = (1 - a_prev - std**2).clamp(min=0).sqrt()  # rounding may reach below 0 at eta = 1
    precision = promote_types(noise_pred.dtype, float32)  # float64 from `velocity_to_noise`
    x, eps = sample.to(precision), noise_pred.to(precision)
    a_t, a_prev, direction = (_over(v.to(precision), x) for v in (a_t, a_prev, direction))

    x0 = (x - (1 - a_t).sqrt() * eps) / a_t.sqrt()
    return (a_prev.sqrt() * x0 + direction * eps).float(), std


def step_sensitivity(
    alpha_t: Float[Tensor, "T"], alpha_prev: Float[Tensor, "T"], eta: float
) -> Float[Tensor, "T"]:
    """How many std the mean of x_{t-1} moves when the predicted velocity moves by 1 (ours).

    The gradient of a step's log-probability grows with it: at SD 1.5's schedule and eta = 1 a
    hundredfold from the first of ten steps to the last. Velocity, because it has unit scale at
    every time, whatever the network predicts. Infinite where a step draws no noise.
    """
    a_t, a_prev = alpha_t.double(), alpha_prev.double()
    variance = eta**2 * (1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)
    direction = (1 - a_prev - variance).clamp(min=0).sqrt()
    moved = (a_prev.sqrt() * (1 - a_t).sqrt() - direction * a_t.sqrt()).abs()
    return (moved / variance.sqrt()).float()


def gaussian_log_prob(
    x: Float[Tensor, "B *latent"], mean: Float[Tensor, "B *latent"], std: PerSample
) -> Float32[Tensor, "B"]:
    """log p_theta(x_{t-1} | x_t, c) per latent element (DRIFT, Eq. 2; mean over elements: ours).

    Pass the very tensor that is stored as `x`: a cast between drawing and scoring moves the ratio.
    """
    if not (std > 0).all():
        raise ValueError(f"gaussian_log_prob needs std > 0, got std={std.min().item()}")
    x, mean, std = x.float(), mean.float(), std.float()
    error = (x - mean).square().flatten(1).mean(1)
    return -error / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)


def velocity_to_noise(
    sample: Float[Tensor, "B *latent"], v: Float[Tensor, "B *latent"], alpha_t: PerSample
) -> Float64[Tensor, "B *latent"]:
    """eps = sqrt(alpha)·v + sqrt(1 - alpha)·x_t (Salimans & Ho, Section 4; SD 2.1 predicts v).

    In float64: near pure noise the step divides by sqrt(alpha), and would make a float32 rounding
    of eps up to 15 times as large.
    """
    a_t = _over(alpha_t.double(), sample)
    return a_t.sqrt() * v.double() + (1 - a_t).sqrt() * sample.double()


def guide(
    noise_uncond: Float[Tensor, "B *latent"],
    noise_cond: Float[Tensor, "B *latent"],
    guidance_scale: float,
) -> Float32[Tensor, "B *latent"]:
    """Classifier-free guidance (Ho & Salimans): 0 ignores the prompt, 1 is the plain prompt."""
    uncond = noise_uncond.float()
    return uncond + guidance_scale * (noise_cond.float() - uncond)


def _over(value: PerSample, latents: Float[Tensor, "B *latent"]) -> Float[Tensor, "..."]:
    """Give a per-sample value the trailing axes to broadcast over latents; 0-dim needs none."""
    return value if value.ndim == 0 else value.view(-1, *[1] * (latents.ndim - 1))

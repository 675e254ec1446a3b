"""One denoising step as a Gaussian policy (DRIFT, Section 3: the MDP of Eq. 2).

The action is x_{t-1}, drawn from N(mean, std^2 I). Two departures from the usual code: everything
is float32 whatever the network's dtype, because a clip range of 1e-4 leaves no room for half
precision; and a log-probability is the mean, not the sum, over latent elements (ours), so that
the clip range does not depend on the size of the latents.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

# One value for the whole batch, or one per sample.
PerSample = Float[Tensor, ""] | Float[Tensor, "B"]

# What a network predicts of x_t = sqrt(alpha)·x0 + sqrt(1 - alpha)·eps: the noise eps, or the
# velocity sqrt(alpha)·eps - sqrt(1 - alpha)·x0 (Salimans & Ho, Section 4; SD 2.1).
Prediction = Literal["epsilon", "v"]


def clean_and_noise(
    sample: Float[Tensor, "B *latent"],
    noise_pred: Float[Tensor, "B *latent"],
    alpha_t: PerSample,
    prediction: Prediction,
) -> tuple[Float32[Tensor, "B *latent"], Float32[Tensor, "B *latent"]]:
    """The x0 and eps that the network's output for x_t stands for.

    Under "v" both are sums, so that a start without any signal (alpha_t = 0, zero terminal SNR) is
    a time like others. Under "epsilon" x0 is a quotient by sqrt(alpha_t), and has no value there.
    """
    x, predicted = sample.float(), noise_pred.float()
    signal, spread = (over_latents(v.sqrt(), x) for v in (alpha_t.float(), 1 - alpha_t.float()))
    if prediction == "epsilon":
        return (x - spread * predicted) / signal, predicted
    return signal * x - spread * predicted, signal * predicted + spread * x


def ddim_step(
    sample: Float[Tensor, "B *latent"],
    noise_pred: Float[Tensor, "B *latent"],
    alpha_t: PerSample,
    alpha_prev: PerSample,
    eta: float | PerSample,
    prediction: Prediction = "epsilon",
) -> tuple[Float32[Tensor, "B *latent"], PerSample]:
    """Mean and standard deviation of x_{t-1} given x_t (DDIM, Eq. 12 and 16; eta = 1 in DRIFT).

    `noise_pred` is the network's output, which is a velocity under `prediction` "v". `alpha_t` and
    `alpha_prev` are cumulative products (diffusers' `alphas_cumprod`) at this time and at the next,
    less noisy one. `eta` lies in [0, 1], one for all or each sample its own. At alpha_prev = 1, or
    at eta = 0, std is 0 and the step is no longer a policy: keep `set_alpha_to_one` False.
    """
    if not isinstance(eta, Tensor) and not 0 <= eta <= 1:  # reading a tensor would stall a card
        raise ValueError(f"eta must lie in [0, 1], got eta={eta}")
    a_t, a_prev = alpha_t.float(), alpha_prev.float()
    std = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
    direction = (1 - a_prev - std**2).clamp(min=0).sqrt()  # rounding may reach below 0 at eta = 1
    x0, eps = clean_and_noise(sample, noise_pred, a_t, prediction)
    return over_latents(a_prev.sqrt(), x0) * x0 + over_latents(direction, eps) * eps, std


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
    A step without noise (std = 0) is no action, and its log-probability is 0.
    """
    x, mean, std = x.float(), mean.float(), std.float()
    still = std == 0
    error = (x - mean).square().flatten(1).mean(1)
    std = torch.where(still, 1.0, std)
    log_prob = -error / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(still, 0.0, log_prob)


def guide(
    uncond: Float[Tensor, "B *latent"],
    cond: Float[Tensor, "B *latent"],
    guidance_scale: float,
) -> Float32[Tensor, "B *latent"]:
    """Classifier-free guidance (Ho & Salimans) of a network's two predictions, of any kind.

    0 ignores the prompt, 1 is the plain prompt.
    """
    uncond = uncond.float()
    return uncond + guidance_scale * (cond.float() - uncond)


def over_latents(value: PerSample, latents: Float[Tensor, "B *latent"]) -> Float[Tensor, "..."]:
    """Give a per-sample value the trailing axes to broadcast over latents; 0-dim needs none."""
    return value if value.ndim == 0 else value.view(-1, *[1] * (latents.ndim - 1))

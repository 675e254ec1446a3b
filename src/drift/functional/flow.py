"""One step of a flow model as a Gaussian policy (Flow-GRPO, Liu et al., arXiv 2505.05470; ours).

x_s = (1 - s)·x0 + s·eps with sigma s from 1 (noise) to 0, and the network predicts the velocity
v = eps - x0. The ODE dx = v ds has no noise; both forms here put some in and keep its marginals.
As for diffusion (`dynamics`), all is float32 and a log-probability is a mean over elements.

What the tests show of both: the SDE has the ODE's marginals as steps become small, but for its
first step, whose made-up diffusion (`sigma_max`) adds a^4/4 to the variance at any step size, 6 %
at a = 0.7; later steps forget it. Coefficient-preserving steps keep the marginals of a single known
picture exactly, at any step size; of an uncertain one they lose spread, however small the steps.

Ours: a step to sigma 0 is the ODE's, whatever the noise level. Noise there would stay in the
picture; the peers draw it and leave that step out of training.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from drift.functional.dynamics import PerSample, over_latents

# "sde": Flow-GRPO's; "cps": coefficients-preserving (Wang & Yu, arXiv 2509.05952), in which signal
# and noise have exactly the shares that the next time wants.
FlowForm = Literal["sde", "cps"]


def flow_step(
    sample: Float[Tensor, "B *latent"],
    velocity: Float[Tensor, "B *latent"],
    sigma: PerSample,
    sigma_next: PerSample,
    noise_level: float | PerSample,
    *,
    sigma_max: float,
    form: FlowForm = "sde",
) -> tuple[Float32[Tensor, "B *latent"], PerSample]:
    """Mean and standard deviation of the state at `sigma_next`, the less noisy one.

    `noise_level` is Flow-GRPO's a, at least 0, under "sde"; in [0, 1] under "cps". At 0 the step is
    the ODE's and std is 0. `sigma_max` stands in for sigma 1, whose own diffusion is infinite: the
    second sigma of the trajectory, as in Flow-GRPO's code.
    """
    x, v = sample.float(), velocity.float()
    s, n = sigma.float(), sigma_next.float()
    weights, std = _coefficients(s, n, noise_level, sigma_max, form)
    signal, spread = (over_latents(weight, x) for weight in weights)
    s = over_latents(s, x)
    return signal * (x - s * v) + spread * (x + (1 - s) * v), std


def flow_sensitivity(
    sigma: Float[Tensor, "T"],
    sigma_next: Float[Tensor, "T"],
    noise_level: float,
    *,
    sigma_max: float,
    form: FlowForm = "sde",
) -> Float[Tensor, "T"]:
    """How many std the mean moves when the velocity moves by 1; infinite without noise (ours)."""
    s, n = sigma.double(), sigma_next.double()
    (signal, spread), std = _coefficients(s, n, noise_level, sigma_max, form)
    return ((spread * (1 - s) - signal * s).abs() / std).float()


def _coefficients(
    s: Tensor, n: Tensor, noise_level: float | Tensor, sigma_max: float, form: FlowForm
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The mean's weights of x0 and of eps, which the network's velocity implies; the std."""
    if form == "cps":
        std = n * torch.sin(torch.as_tensor(noise_level * math.pi / 2, dtype=s.dtype))
        return (1 - n, (n**2 - std**2).clamp(min=0).sqrt()), std
    # dx = v ds + g^2/(2s)·eps ds + g dW, of which g^2 = a^2·s/(1 - s); backwards, so ds < 0.
    h = s - n
    diffusion = noise_level**2 * s / (1 - torch.where(s >= 1, sigma_max, s)) * (n > 0)
    return (1 - n, n - diffusion * h / (2 * s)), (diffusion * h).sqrt()

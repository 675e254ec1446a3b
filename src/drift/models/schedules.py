"""Schedules of a trajectory; what a model folder configures, whichever sampler it was saved with.

A diffusion model's folder may name PNDM, Euler or another sampler: what counts is what these have
in common with DDIM, the noise schedule, the spacing of the steps and what the network predicts.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Bool, Float, Int
from torch import Tensor

from drift.errors import UserError
from drift.functional.dynamics import PerSample, Prediction, ddim_step, step_sensitivity
from drift.functional.flow import FlowForm, flow_sensitivity, flow_step

# How SD 3's sigmas are shifted: once, or as diffusers does where a pipeline is given none, twice
# (diffusers #13243). The peers differ, and a model's pictures with it.
Shift = Literal["once", "twice"]
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}  # diffusers' names


@dataclass(frozen=True)
class DDIMSchedule:
    """A `Schedule` of DDIM's steps in their SDE form; the noise level is eta.

    `alphas[k]` is the cumulative alpha at `timesteps[k]`, `next_alphas[k]` the one stepped to (the
    scheduler's final alpha at the end).
    """

    timesteps: Int[Tensor, "T"]
    alphas: Float[Tensor, "T"]
    next_alphas: Float[Tensor, "T"]
    fractions: Float[Tensor, "T"]
    prediction: Prediction = "epsilon"

    def step(
        self,
        sample: Float[Tensor, "B *latent"],
        noise_pred: Float[Tensor, "B *latent"],
        index: Int[Tensor, "B"] | int,
        noise_level: float | PerSample,
    ) -> tuple[Float[Tensor, "B *latent"], PerSample]:
        alpha, following = self.alphas[index], self.next_alphas[index]
        return ddim_step(sample, noise_pred, alpha, following, noise_level, self.prediction)

    def noisy(self, noise_level: float) -> Bool[Tensor, "T"]:
        """All of SD 1.5's (`set_alpha_to_one=False`, `steps_offset=1`).

        A last step to the clean image, or from time 0 to itself, is deterministic.
        """
        return (self.alphas < self.next_alphas) & (self.next_alphas < 1) & (noise_level > 0)

    def sensitivity(self, noise_level: float) -> Float[Tensor, "T"]:
        return step_sensitivity(self.alphas, self.next_alphas, noise_level)

    def __len__(self) -> int:
        return len(self.timesteps)


def ddim_schedule(scheduler: DDIMScheduler, steps: int, device: torch.device) -> DDIMSchedule:
    """Times and cumulative alphas exactly as diffusers' DDIMScheduler steps through them."""
    config, total = scheduler.config, scheduler.config.num_train_timesteps
    if steps <= total:
        scheduler.set_timesteps(steps)
    if steps > total or scheduler.timesteps.max() >= total:  # an offset may lead beyond the end
        raise UserError(f"steps: this model's {total} times do not hold {steps} steps")
    if config.prediction_type not in PREDICTIONS:
        raise UserError(
            f"model.name: this model predicts '{config.prediction_type}' (prediction_type); known "
            f"are {', '.join(PREDICTIONS)}"
        )
    times = scheduler.timesteps.long()
    previous, alphas = times - total // steps, scheduler.alphas_cumprod
    prediction = PREDICTIONS[config.prediction_type]
    if prediction == "epsilon" and alphas[times].min() <= 0:
        raise UserError(
            "model.name: its scheduler starts without any signal (rescale_betas_zero_snr), where a "
            "predicted noise says nothing; such a model must predict v"
        )
    return DDIMSchedule(
        timesteps=times.to(device),
        alphas=alphas[times].to(device),
        next_alphas=torch.where(
            previous >= 0, alphas[previous.clamp(min=0)], scheduler.final_alpha_cumprod
        ).to(device),
        fractions=(times / total).to(device),
        prediction=prediction,
    )


@dataclass(frozen=True)
class FlowSchedule:
    """A `Schedule` of a flow model's steps; the noise level is Flow-GRPO's a.

    `fractions[k]` is the sigma of step k, `next_sigmas[k]` the one stepped to, 0 at the end.
    """

    timesteps: Float[Tensor, "T"]
    fractions: Float[Tensor, "T"]
    next_sigmas: Float[Tensor, "T"]
    sigma_max: float  # the second sigma, for the first step's diffusion
    form: FlowForm = "sde"

    def step(
        self,
        sample: Float[Tensor, "B *latent"],
        noise_pred: Float[Tensor, "B *latent"],
        index: Int[Tensor, "B"] | int,
        noise_level: float | PerSample,
    ) -> tuple[Float[Tensor, "B *latent"], PerSample]:
        sigma, following = self.fractions[index], self.next_sigmas[index]
        own = {"sigma_max": self.sigma_max, "form": self.form}
        return flow_step(sample, noise_pred, sigma, following, noise_level, **own)

    def noisy(self, noise_level: float) -> Bool[Tensor, "T"]:
        """All but the last, which goes to the picture."""
        return (self.next_sigmas > 0) & (noise_level > 0)

    def sensitivity(self, noise_level: float) -> Float[Tensor, "T"]:
        own = {"sigma_max": self.sigma_max, "form": self.form}
        return flow_sensitivity(self.fractions, self.next_sigmas, noise_level, **own)

    def __len__(self) -> int:
        return len(self.timesteps)


def flow_schedule(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    device: torch.device,
    *,
    shift: Shift = "twice",
    form: FlowForm = "sde",
    mu: float | None = None,
) -> FlowSchedule:
    """Sigmas and times as diffusers' scheduler has them after `set_timesteps`.

    `mu` is the shift of a scheduler whose shift depends on the picture's size (FLUX).
    """
    if shift == "twice":
        scheduler.set_timesteps(steps, mu=mu)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    sigmas = scheduler.sigmas.float()
    return FlowSchedule(
        timesteps=scheduler.timesteps.float().to(device),
        fractions=sigmas[:-1].to(device),
        next_sigmas=sigmas[1:].to(device),
        sigma_max=sigmas[1].item(),
        form=form,
    )

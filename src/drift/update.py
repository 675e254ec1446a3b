"""The only gradient loop: replay kept trajectories and take clipped policy-gradient steps.

The last step is trained like the others if it draws noise (SD 1.5's does, with a small std where
errors weigh most), and never if it does not: see `Schedule.stochastic`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from drift.config import TrainConfig
from drift.functional.dynamics import ddim_step, gaussian_log_prob
from drift.functional.noise import derive_seed
from drift.functional.surrogate import approx_kl, clip_fraction
from drift.types import PolicyModel, Rollout, Schedule


@dataclass(frozen=True)
class UpdateStats:
    """Means over the (sample, step) pairs of one optimizer step."""

    loss: float
    clip_fraction: float
    approx_kl: float
    max_ratio_error: float  # largest |ratio - 1|; 0 up to rounding before the first update
    grad_norm: float
    reference_kl: float
    log_prob_gap: list[float | None]  # largest |log-prob - stored| by step; None: not trained on


def replay(
    model: PolicyModel,
    kept: Rollout,
    prompt: Int[Tensor, "B"],
    sample: Int[Tensor, "B"],
    step: Int[Tensor, "B"],
    schedule: Schedule,
    config: TrainConfig,
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B c h w"], Float[Tensor, "B"]]:
    """Log-probability, mean and std of the stored actions under the present policy."""
    sampling = config.sampling
    conditioning = config.method.conditioning.in_training()
    embeds = conditioning(
        kept.prompt_embeds[prompt],
        schedule.fractions[step],
        kept.seeds[prompt, sample].tolist(),
        step.tolist(),
    )
    x, action = kept.latents[prompt, sample, step], kept.latents[prompt, sample, step + 1]
    noise_pred = model.predict_noise(x, schedule.timesteps[step], embeds, sampling.guidance_scale)
    alphas, next_alphas = schedule.alphas[step], schedule.next_alphas[step]
    mean, std = ddim_step(x, noise_pred, alphas, next_alphas, sampling.eta)
    return gaussian_log_prob(action, mean, std), mean, std


def update_policy(
    model: PolicyModel,
    optimizer: torch.optim.Optimizer,
    kept: Rollout,
    advantages: Float[Tensor, "P G"],
    config: TrainConfig,
    epoch: int,
) -> list[UpdateStats]:
    """One pass over the kept samples in `updates_per_epoch` optimizer steps."""
    P, G, _ = kept.log_probs.shape
    schedule = model.schedule(config.sampling.steps)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, epoch, -1))
    order = torch.randperm(P * G, generator=generator)
    steps = config.method.timesteps(P, schedule.stochastic, epoch, generator)
    updates = []
    for chunk in order.chunk(config.optimizer.updates_per_epoch):
        chosen = steps[chunk // G]  # "S K", those of each sample's prompt
        pairs = torch.stack([chunk.repeat_interleave(chosen.shape[1]), chosen.flatten()], 1)
        updates += [_one_update(model, optimizer, kept, advantages, config, pairs, schedule)]
    return updates


def _one_update(model, optimizer, kept, advantages, config, pairs, schedule) -> UpdateStats:
    """Accumulate the gradient of all (sample, step) `pairs`, then step."""
    method, G = config.method, advantages.shape[1]
    weights = method.weighting(schedule, config.sampling.eta)
    totals, worst, gap = torch.zeros(4), 0.0, torch.full((len(schedule),), -1.0)
    for part in pairs.split(config.optimizer.micro_batch_size):
        prompt, sample, step = part[:, 0] // G, part[:, 0] % G, part[:, 1]
        log_prob, mean, std = replay(model, kept, prompt, sample, step, schedule, config)
        old = kept.log_probs[prompt, sample, step]
        loss = weights[step] * method.surrogate(log_prob, old, advantages[prompt, sample])
        penalty = torch.zeros_like(loss)
        if method.regulariser.weight:
            with torch.no_grad(), model.reference():
                _, reference_mean, _ = replay(model, kept, prompt, sample, step, schedule, config)
            penalty = method.regulariser(mean, reference_mean, std, schedule.fractions[step])
        share = len(part) / len(pairs)
        ((loss + method.regulariser.weight * penalty).mean() * share).backward()
        with torch.no_grad():
            clipped = clip_fraction(log_prob, old, method.surrogate.clip_range)
            measured = (loss.mean(), clipped, approx_kl(log_prob, old), penalty.mean())
            totals += share * torch.stack(measured)
            worst = max(worst, float(((log_prob - old).exp() - 1).abs().max()))
            gap.scatter_reduce_(0, step, (log_prob - old).abs(), "amax")
    norm = nn.utils.clip_grad_norm_(model.trainable_parameters(), config.optimizer.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    loss, clipped, kl, reference_kl = totals.tolist()
    gaps = [value if value >= 0 else None for value in gap.tolist()]
    return UpdateStats(loss, clipped, kl, worst, float(norm), reference_kl, gaps)

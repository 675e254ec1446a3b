"""The only gradient loop: replay kept trajectories and take clipped policy-gradient steps.

The last step is trained like the others if it draws noise (SD 1.5's does, with a small std where
errors weigh most), and never if it does not: see `Schedule.stochastic`.

An update whose gradient is not finite is skipped and counted, and leaves weights and moments as
they are. A micro-batch that does not fit into memory is halved, and its gradient stays the same.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from drift.config import TrainConfig
from drift.errors import UserError
from drift.functional.dynamics import gaussian_log_prob
from drift.functional.noise import derive_seed
from drift.functional.surrogate import approx_kl, clip_fraction
from drift.training.batches import in_batches
from drift.types import PolicyModel, Rollout, Schedule

MOST_SKIPPED = 10  # updates in a row; float16's scaler needs a few to find its scale


@dataclass
class Learner:
    """What an update changes beside the policy; all of it is checkpointed but the batch size."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of float16's gradients; disabled in every other dtype
    micro_batch_size: int
    skipped: int = 0  # updates in a row, until now


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
    skipped: bool  # its gradient was not finite


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
    sampling, device = config.sampling, model.device
    conditioning = config.method.conditioning.in_training()
    k = step.to(device)
    embeds = conditioning(
        kept.prompt_embeds[prompt].each(lambda e: e.to(device)),
        schedule.fractions[k],
        kept.seeds[prompt, sample].tolist(),
        step.tolist(),
    )
    x = kept.latents[prompt, sample, step].to(device)
    action = kept.latents[prompt, sample, step + 1].to(device)
    noise_pred = model.predict_noise(x, schedule.timesteps[k], embeds, sampling.guidance_scale)
    mean, std = schedule.step(x, noise_pred, k, sampling.eta)
    return gaussian_log_prob(action, mean, std), mean, std


def update_policy(
    model: PolicyModel,
    learner: Learner,
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
        updates += [_one_update(model, learner, kept, advantages, config, pairs, schedule)]
    return updates


@dataclass
class Tally:
    """Running figures of one update, on the CPU."""

    steps: int
    elements: int  # of a latent
    means: Tensor = field(default_factory=lambda: torch.zeros(4))
    worst: float = 0.0
    gap: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.gap = torch.full((self.steps,), -1.0)

    def add(self, step, log_prob, old, loss, penalty, clip_range: float, share: float) -> None:
        log_prob, loss, penalty = (v.detach().float().cpu() for v in (log_prob, loss, penalty))
        clipped = clip_fraction(log_prob, old, clip_range)
        kl = approx_kl(log_prob, old, self.elements)
        measured = (loss.mean(), clipped, kl, penalty.mean())
        self.means += share * torch.stack(measured)
        self.worst = max(self.worst, float(((log_prob - old).exp() - 1).abs().max()))
        self.gap.scatter_reduce_(0, step, (log_prob - old).abs(), "amax")


def loss_terms(
    model: PolicyModel,
    kept: Rollout,
    advantages: Float[Tensor, "P G"],
    config: TrainConfig,
    pairs: Int[Tensor, "B 2"],
    schedule: Schedule,
    weights: Float[Tensor, "T"],
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Log-probability, weighed surrogate loss and KL penalty of (sample, step) `pairs`."""
    method, G, here = config.method, advantages.shape[1], model.device
    prompt, sample, step = pairs[:, 0] // G, pairs[:, 0] % G, pairs[:, 1]
    log_prob, mean, std = replay(model, kept, prompt, sample, step, schedule, config)
    old, k = kept.log_probs[prompt, sample, step].to(here), step.to(here)
    loss = weights[k] * method.surrogate(log_prob, old, advantages[prompt, sample].to(here))
    penalty = torch.zeros_like(loss)
    if method.regulariser.weight:
        with torch.no_grad(), model.reference():
            _, reference_mean, _ = replay(model, kept, prompt, sample, step, schedule, config)
        penalty = method.regulariser(mean, reference_mean, std, schedule.fractions[k])
    return log_prob, loss, penalty


def trial_gradient(
    model: PolicyModel,
    kept: Rollout,
    advantages: Float[Tensor, "P G"],
    config: TrainConfig,
    pairs: Int[Tensor, "B 2"],
) -> tuple[Tensor | None, ...]:
    """The gradient of one micro-batch, as an update would take it; nothing is changed by it."""
    method, schedule = config.method, model.schedule(config.sampling.steps)
    weights = method.weighting(schedule, config.sampling.eta)
    _, loss, penalty = loss_terms(model, kept, advantages, config, pairs, schedule, weights)
    total = (loss + method.regulariser.weight * penalty).mean()
    return torch.autograd.grad(total, model.trainable_parameters(), allow_unused=True)


def _one_update(model, learner, kept, advantages, config, pairs, schedule) -> UpdateStats:
    """Accumulate the gradient of all (sample, step) `pairs`, then step."""
    method, parameters = config.method, model.trainable_parameters()
    tally = Tally(len(schedule), elements=kept.latents[0, 0, 0].numel())
    weights = method.weighting(schedule, config.sampling.eta)
    stored = kept.log_probs.flatten(0, 1)

    def accumulate(part: Int[Tensor, "B 2"]) -> None:
        """All or nothing, so that a part which ran out of memory can be done again in halves."""
        log_prob, loss, penalty = loss_terms(
            model, kept, advantages, config, part, schedule, weights
        )
        share = len(part) / len(pairs)
        total = (loss + method.regulariser.weight * penalty).mean() * share
        gradients = torch.autograd.grad(learner.scaler.scale(total), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient.add_(0 if parameter.grad is None else parameter.grad)
        sample, step = part.unbind(1)
        old = stored[sample, step]
        tally.add(step, log_prob, old, loss, penalty, method.surrogate.clip_range, share)

    learner.micro_batch_size = in_batches(
        accumulate, pairs, learner.micro_batch_size, field="optimizer.micro_batch_size"
    )
    norm, skipped = _step(learner, parameters, config.optimizer.max_grad_norm)
    loss, clipped, kl, reference_kl = tally.means.tolist()
    gaps = [value if value >= 0 else None for value in tally.gap.tolist()]
    return UpdateStats(loss, clipped, kl, tally.worst, norm, reference_kl, gaps, skipped)


def _step(
    learner: Learner, parameters: list[nn.Parameter], max_grad_norm: float
) -> tuple[float, bool]:
    """Clip and step, unless the gradient is not finite; its norm, and whether it was skipped."""
    learner.scaler.unscale_(learner.optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    skipped = not math.isfinite(norm)
    if not skipped:
        learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad()
    learner.skipped = learner.skipped + 1 if skipped else 0
    if learner.skipped >= MOST_SKIPPED:
        raise UserError(
            f"the gradient was not finite {MOST_SKIPPED} updates in a row; the last checkpoint is "
            "from before; a smaller learning rate, or another model.dtype than float16, may help"
        )
    return norm, skipped

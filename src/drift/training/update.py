"""The only gradient loop: replay kept trajectories and take clipped policy-gradient steps.

Which steps are trained on stands in the rollout's plan. The last one is among them if it draws
noise (SD 1.5's does, with a small std where errors weigh most), and never if it does not.

An update whose gradient is not finite is skipped and counted, and leaves weights and moments as
they are. A micro-batch that does not fit into memory is halved, and its gradient stays the same.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from drift.config import TrainConfig
from drift.errors import UserError
from drift.functional.dynamics import gaussian_log_prob
from drift.functional.noise import derive_seed
from drift.functional.surrogate import approx_kl, clip_fraction
from drift.training.interrupt import held
from drift.training.memory import in_batches
from drift.training.rollout import trained_schedule
from drift.types import PolicyModel, Rollout, Schedule


@dataclass
class Learner:
    """What an update changes beside the policy; all of it is checkpointed but the batch size."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of float16's gradients; disabled in every other dtype
    micro_batch_size: int
    average: EMAModel | None = None  # of the weights
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
    pairs: Int[Tensor, "B 2"],
    schedule: Schedule,
    config: TrainConfig,
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B c h w"], Float[Tensor, "B"]]:
    """Log-probability, mean and std of the stored actions under the present policy."""
    device, conditioning = model.device, config.method.conditioning.in_training()
    prompt, sample, step = locate(kept, pairs)
    k = step.to(device)
    told = conditioning(
        kept.conditioned[prompt].each(lambda e: e.to(device)),
        schedule.fractions[k],
        kept.seeds[prompt, sample].tolist(),
        step.tolist(),
    )
    x = kept.latents[prompt, sample, step].to(device)
    action = kept.latents[prompt, sample, step + 1].to(device)
    noise_level = kept.plan.noise_level[prompt, step].to(device)
    noise_pred = model.predict(x, schedule.timesteps[k], told, config.sampling.guidance_scale)
    mean, std = schedule.step(x, noise_pred, k, noise_level)
    return gaussian_log_prob(action, mean, std), mean, std


def locate(kept: Rollout, pairs: Int[Tensor, "B 2"]) -> tuple[Int[Tensor, "B"], ...]:
    """Prompt, place in its group, and step of each (sample, step) pair."""
    G = kept.seeds.shape[1]
    return pairs[:, 0] // G, pairs[:, 0] % G, pairs[:, 1]


def trained_pairs(kept: Rollout, samples: Int[Tensor, "S"]) -> Int[Tensor, "B 2"]:
    """(sample, step) for every step of these samples that is trained on, sample by sample."""
    row, step = kept.plan.train[samples // kept.seeds.shape[1]].nonzero().unbind(1)
    return torch.stack([samples[row], step], 1)


@dataclass(frozen=True)
class Signal:
    """What an update learns from: of each kept sample its advantage and its penalty's weight."""

    advantages: Float[Tensor, "P G"]
    penalty_weight: float | Float[Tensor, "P G"] = 0.0  # beta


def update_policy(
    model: PolicyModel,
    learner: Learner,
    kept: Rollout,
    signal: Signal,
    config: TrainConfig,
    epoch: int,
) -> list[UpdateStats]:
    """One pass over the kept samples in `updates_per_epoch` optimizer steps."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, epoch, -1))
    order = torch.randperm(kept.seeds.numel(), generator=generator)
    chunks = order.chunk(config.optimizer.updates_per_epoch)
    updates = [trained_pairs(kept, samples) for samples in chunks]
    if config.optimizer.old_log_probs == "replay":
        kept = replayed(model, learner, kept, config, updates)
    first, *others = updates
    taken = [_one_update(model, learner, kept, signal, config, first)]
    with held():  # the policy has moved on: this epoch is finished
        taken += [_one_update(model, learner, kept, signal, config, pairs) for pairs in others]
    return taken


@torch.no_grad()
def replayed(
    model: PolicyModel,
    learner: Learner,
    kept: Rollout,
    config: TrainConfig,
    updates: list[Int[Tensor, "B 2"]],
) -> Rollout:
    """The same samples with the log-probabilities that the updates' own micro-batches compute."""
    schedule, found = trained_schedule(model, config), kept.log_probs.clone()
    flat = found.flatten(0, 1)

    def again(part: Int[Tensor, "B 2"]) -> None:
        log_prob, _, _ = replay(model, kept, part, schedule, config)
        flat[tuple(part.unbind(1))] = log_prob.cpu()

    for pairs in updates:
        learner.micro_batch_size = in_batches(
            again, pairs, learner.micro_batch_size, field="optimizer.micro_batch_size"
        )
    return replace(kept, log_probs=found)


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

    def add(self, step, old, terms: "Terms", clip_range: float, share: float) -> None:
        measured = torch.stack([terms.log_prob, terms.loss, terms.penalty]).detach().float().cpu()
        log_prob, loss, penalty = measured  # in one copy
        clipped = clip_fraction(log_prob, old, clip_range)
        kl = approx_kl(log_prob, old, self.elements)
        self.means += share * torch.stack([loss.mean(), clipped, kl, penalty.mean()])
        self.worst = max(self.worst, float(((log_prob - old).exp() - 1).abs().max()))
        self.gap.scatter_reduce_(0, step, (log_prob - old).abs(), "amax")


@dataclass(frozen=True)
class Terms:
    """Of some (sample, step) pairs; minimised is the mean of loss + penalty_weight·penalty."""

    log_prob: Float[Tensor, "B"]
    loss: Float[Tensor, "B"]  # the surrogate, weighed by its step
    penalty: Float[Tensor, "B"]
    penalty_weight: float | Float[Tensor, "B"]

    @property
    def objective(self) -> Float[Tensor, ""]:
        return (self.loss + self.penalty_weight * self.penalty).mean()


def loss_terms(
    model: PolicyModel,
    kept: Rollout,
    signal: Signal,
    config: TrainConfig,
    pairs: Int[Tensor, "B 2"],
    schedule: Schedule,
    weights: Float[Tensor, "T"],
) -> Terms:
    """The terms of the loss, of (sample, step) `pairs`, under the present policy."""
    method, here = config.method, model.device
    prompt, sample, step = locate(kept, pairs)
    log_prob, mean, std = replay(model, kept, pairs, schedule, config)
    old, k = kept.log_probs[prompt, sample, step].to(here), step.to(here)
    advantage, beta = signal.advantages[prompt, sample].to(here), signal.penalty_weight
    loss = weights[k] * method.surrogate(log_prob, old, advantage)
    penalty = torch.zeros_like(loss)
    if method.regulariser.weight:
        with torch.no_grad(), model.reference():
            _, reference_mean, _ = replay(model, kept, pairs, schedule, config)
        penalty = method.regulariser.penalty(mean, reference_mean, std, schedule.fractions[k])
    if isinstance(beta, Tensor):
        beta = beta[prompt, sample].to(here)
    return Terms(log_prob, loss, penalty, beta)


def trial_gradient(
    model: PolicyModel,
    kept: Rollout,
    signal: Signal,
    config: TrainConfig,
    pairs: Int[Tensor, "B 2"],
) -> tuple[Tensor | None, ...]:
    """The gradient of one micro-batch, as an update would take it; nothing is changed by it."""
    schedule = trained_schedule(model, config)
    weights = config.method.weighting(schedule, config.sampling.eta)
    terms = loss_terms(model, kept, signal, config, pairs, schedule, weights)
    return torch.autograd.grad(terms.objective, model.trainable_parameters(), allow_unused=True)


def _one_update(model, learner, kept, signal, config, pairs) -> UpdateStats:
    """Accumulate the gradient of all (sample, step) `pairs`, then step."""
    parameters, schedule = model.trainable_parameters(), trained_schedule(model, config)
    weights = config.method.weighting(schedule, config.sampling.eta)
    tally = Tally(kept.plan.train.shape[1], elements=kept.latents[0, 0, 0].numel())
    stored, clip_range = kept.log_probs.flatten(0, 1), config.method.surrogate.clip_range
    gradients: list[Tensor | None] = [None] * len(parameters)

    def accumulate(part: Int[Tensor, "B 2"]) -> None:
        """All or nothing, so that a part which ran out of memory can be done again in halves."""
        terms = loss_terms(model, kept, signal, config, part, schedule, weights)
        share = len(part) / len(pairs)
        learner.optimizer.zero_grad()  # of a part that failed
        learner.scaler.scale(terms.objective * share).backward()
        for k, parameter in enumerate(parameters):
            if parameter.grad is not None:
                gradients[k] = parameter.grad.add_(0 if gradients[k] is None else gradients[k])
        sample, step = part.unbind(1)
        tally.add(step, stored[sample, step], terms, clip_range, share)

    learner.micro_batch_size = in_batches(
        accumulate, pairs, learner.micro_batch_size, field="optimizer.micro_batch_size"
    )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm, skipped = _step(learner, parameters, config)
    loss, clipped, kl, reference_kl = tally.means.tolist()
    gaps = [value if value >= 0 else None for value in tally.gap.tolist()]
    return UpdateStats(loss, clipped, kl, tally.worst, norm, reference_kl, gaps, skipped)


def _step(
    learner: Learner, parameters: list[nn.Parameter], config: TrainConfig
) -> tuple[float, bool]:
    """Clip and step, unless the gradient is not finite; its norm, and whether it was skipped."""
    learner.scaler.unscale_(learner.optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm))
    skipped = not math.isfinite(norm)
    if not skipped:
        learner.scaler.step(learner.optimizer)
        if learner.average:
            learner.average.step(parameters)
    learner.scaler.update()
    learner.optimizer.zero_grad()
    learner.skipped = learner.skipped + 1 if skipped else 0
    if learner.skipped >= config.guards.skipped_updates:
        raise UserError(
            f"the gradient was not finite {learner.skipped} updates in a row; the last checkpoint "
            "is from before; a smaller learning rate, or another model.dtype than float16, may help"
        )
    return norm, skipped

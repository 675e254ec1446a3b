"""The only denoising loop."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drift.config import OWN_FEATURES, TrainConfig
from drift.functional.dynamics import gaussian_log_prob, over_latents
from drift.functional.noise import derive_seed, trajectory_noise
from drift.methods.parts.conditioning import Conditioning
from drift.training.memory import in_batches
from drift.types import Conditioned, PolicyModel, Rollout, Schedule, StepPlan


def plan_steps(schedule: Schedule, config: TrainConfig, prompts: int, epoch: int) -> StepPlan:
    """Which steps of an epoch's trajectories draw noise, and which are trained on."""
    eta, timesteps = config.sampling.eta, config.method.timesteps
    actions = schedule.noisy(eta).cpu().nonzero()[:, 0]
    generator = torch.Generator().manual_seed(derive_seed(config.seed, epoch, -3))
    chosen = actions[timesteps(prompts, len(actions), epoch, generator)]
    train = torch.zeros(prompts, len(schedule), dtype=torch.bool).scatter(1, chosen, True)
    noise_level = torch.full_like(train, eta, dtype=torch.float32)
    return StepPlan(noise_level * train if timesteps.ode_elsewhere else noise_level, train)


def trained_schedule(model: PolicyModel, config: TrainConfig) -> Schedule:
    """The steps of the pictures that are trained on."""
    return model.schedule(config.sampling.steps, config.sampling.size)


@torch.no_grad()
def denoise(
    model: PolicyModel,
    conditioned: Conditioned,
    seeds: list[int],
    noise_level: Float[Tensor, "B T"],
    *,
    guidance_scale: float,
    conditioning: Conditioning,
    size: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "B T+1 c h w"], Float[Tensor, "B T"]]:
    """DDIM in its SDE form: every state of each trajectory, and the log-probability of each step.

    A deterministic step (at noise level 0, or a last one without noise) has none: it is 0.
    """
    batch, steps = noise_level.shape
    schedule = model.schedule(steps, size)
    noise = trajectory_noise(seeds, model.latent_shape(size), steps).to(model.device)
    latents, log_probs = [noise[0]], []
    for k in range(steps):
        x, fractions = latents[-1], schedule.fractions[k].expand(batch)
        told = conditioning(conditioned, fractions, seeds, [k] * batch)
        t = schedule.timesteps[k].expand(batch)
        noise_pred = model.predict(x, t, told, guidance_scale)
        mean, std = schedule.step(x, noise_pred, k, noise_level[:, k])
        latents.append(mean + over_latents(std, mean) * noise[k + 1])
        log_probs.append(gaussian_log_prob(latents[-1], mean, std))
    return torch.stack(latents, 1), torch.stack(log_probs, 1)


def decode(
    model: PolicyModel, latents: Float[Tensor, "B c h w"], batch_size: int
) -> Float[Tensor, "B 3 H W"]:
    """Images on the CPU, `batch_size` at once: the decoder needs more memory than the network."""
    parts: list[Tensor] = []
    in_batches(
        lambda part: parts.append(model.decode(part).cpu()),
        latents,
        batch_size,
        field="sampling.decode_batch_size",
    )
    return torch.cat(parts)


def late_features(seen: list[Tensor]) -> Float[Tensor, "B D"]:
    """Mean over the last quarter of the steps, at least one, of what each of them saw "B D"."""
    return torch.stack(seen[-max(1, len(seen) // 4) :]).mean(0)


def rollout(
    model: PolicyModel,
    prompts: Sequence[str],
    seeds: list[list[int]],
    plan: StepPlan,
    *,
    guidance_scale: float,
    batch_size: int,
    conditioning: Conditioning,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
    decode_batch_size: int = 8,
    features: bool = False,
) -> Rollout:
    """Sample `len(seeds[p])` trajectories for every prompt p by its plan, `batch_size` at once.

    What does not fit into memory is done again in halves; the samples do not depend on it.
    `size` is (height, width) in pixels. `features`: capture the policy's own as well.
    """
    pool = len(seeds[0])
    conditioned = model.encode(prompts, negative_prompt)
    flat_seeds = [seed for row in seeds for seed in row]
    noise_level = plan.noise_level.to(model.device)
    parts = []

    def draw(rows: Int[Tensor, "B"]) -> None:
        prompt = (rows // pool).to(model.device)
        with model.capture_features() if features else nullcontext() as seen:
            latents, log_probs = denoise(
                model,
                conditioned[prompt],
                [flat_seeds[row] for row in rows.tolist()],
                noise_level[prompt],
                guidance_scale=guidance_scale,
                conditioning=conditioning,
                size=size,
            )
        own = [late_features(seen).cpu()] if seen else []
        images = decode(model, latents[:, -1], decode_batch_size)
        parts.append((latents.cpu(), log_probs.cpu(), images, *own))

    in_batches(draw, torch.arange(len(flat_seeds)), batch_size, field="batch_size")
    shape = (len(prompts), pool)
    joined = (torch.cat(part).unflatten(0, shape) for part in zip(*parts, strict=True))
    latents, log_probs, images, *own = joined
    told = conditioned.each(Tensor.cpu)
    return Rollout(list(prompts), told, plan, torch.tensor(seeds), log_probs, latents, images, *own)


def draw_by(
    model: PolicyModel,
    prompts: Sequence[str],
    seeds: list[list[int]],
    settings: Mapping[str, Any],
    **others: Any,
) -> Rollout:
    """Pictures to look at, by an evaluation's settings; `others` are those of `rollout`."""
    size = (settings["height"], settings["width"]) if "height" in settings else None
    return rollout(
        model,
        prompts,
        seeds,
        StepPlan.untrained(len(prompts), settings["steps"], settings["eta"]),
        guidance_scale=settings["guidance_scale"],
        negative_prompt=settings.get("negative_prompt", ""),
        size=size,
        **others,
    )


def pool_seeds(config: TrainConfig, epoch: int) -> list[list[int]]:
    """Seeds "P C" of an epoch's trajectories; they depend on nothing but the counters."""
    P, C = config.sampling.prompts_per_epoch, config.sampling.pool_size
    return [[derive_seed(config.seed, epoch, p, c) for c in range(C)] for p in range(P)]


def sample_pool(
    model: PolicyModel,
    prompts: Sequence[str],
    seeds: list[list[int]],
    config: TrainConfig,
    epoch: int = 1,
) -> Rollout:
    """Candidates as they are drawn in training."""
    sampling = config.sampling
    return rollout(
        model,
        prompts,
        seeds,
        plan_steps(trained_schedule(model, config), config, len(prompts), epoch),
        guidance_scale=sampling.guidance_scale,
        batch_size=sampling.batch_size,
        conditioning=config.method.conditioning.in_training(),
        negative_prompt=sampling.negative_prompt,
        size=sampling.size,
        decode_batch_size=sampling.decode_batch_size,
        features=config.encoder == OWN_FEATURES,
    )

"""The only denoising loop."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drift.config import OWN_FEATURES, TrainConfig
from drift.functional.dynamics import gaussian_log_prob
from drift.functional.noise import derive_seed, trajectory_noise
from drift.methods.parts.conditioning import Conditioning
from drift.training.batches import in_batches
from drift.types import PolicyModel, Rollout, TextEmbeds


@torch.no_grad()
def denoise(
    model: PolicyModel,
    prompt_embeds: TextEmbeds,
    seeds: list[int],
    *,
    steps: int,
    guidance_scale: float,
    eta: float,
    conditioning: Conditioning,
) -> tuple[Float[Tensor, "B {steps}+1 c h w"], Float[Tensor, "B {steps}"]]:
    """DDIM in its SDE form: every state of each trajectory, and the log-probability of each step.

    A deterministic step (eta = 0, or a last one without noise) has none: it is returned as 0.
    """
    schedule = model.schedule(steps)
    noise = trajectory_noise(seeds, model.latent_shape, steps).to(model.device)
    latents, log_probs, stochastic = [noise[0]], [], schedule.stochastic
    for k in range(steps):
        x, batch = latents[-1], len(seeds)
        fractions = schedule.fractions[k].expand(batch)
        embeds = conditioning(prompt_embeds, fractions, seeds, [k] * batch)
        t = schedule.timesteps[k].expand(batch)
        noise_pred = model.predict_noise(x, t, embeds, guidance_scale)
        mean, std = schedule.step(x, noise_pred, k, eta)
        latents.append(mean + std * noise[k + 1])
        drawn = eta > 0 and k < stochastic
        log_probs.append(gaussian_log_prob(latents[-1], mean, std) if drawn else x.new_zeros(batch))
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
    *,
    steps: int,
    guidance_scale: float,
    eta: float,
    batch_size: int,
    conditioning: Conditioning,
    decode_batch_size: int = 8,
    features: bool = False,
) -> Rollout:
    """Sample `len(seeds[p])` trajectories for every prompt p, `batch_size` at once.

    What does not fit into memory is done again in halves; the samples do not depend on it.
    `features`: capture the policy's own as well.
    """
    pool = len(seeds[0])
    prompt_embeds = model.encode_prompts(prompts)
    flat_seeds = [seed for row in seeds for seed in row]
    flat_embeds = prompt_embeds.each(lambda e: e.repeat_interleave(pool, 0))
    parts = []

    def draw(rows: Int[Tensor, "B"]) -> None:
        with model.capture_features() if features else nullcontext() as seen:
            latents, log_probs = denoise(
                model,
                flat_embeds[rows.to(model.device)],
                [flat_seeds[row] for row in rows.tolist()],
                steps=steps,
                guidance_scale=guidance_scale,
                eta=eta,
                conditioning=conditioning,
            )
        own = [late_features(seen).cpu()] if seen else []
        images = decode(model, latents[:, -1], decode_batch_size)
        parts.append((latents.cpu(), log_probs.cpu(), images, *own))

    in_batches(draw, torch.arange(len(flat_seeds)), batch_size, field="batch_size")
    shape = (len(prompts), pool)
    joined = (torch.cat(part).unflatten(0, shape) for part in zip(*parts, strict=True))
    latents, log_probs, images, *own = joined
    embeds = prompt_embeds.each(Tensor.cpu)
    return Rollout(list(prompts), embeds, torch.tensor(seeds), log_probs, latents, images, *own)


def pool_seeds(config: TrainConfig, epoch: int) -> list[list[int]]:
    """Seeds "P C" of an epoch's trajectories; they depend on nothing but the counters."""
    P, C = config.sampling.prompts_per_epoch, config.sampling.pool_size
    return [[derive_seed(config.seed, epoch, p, c) for c in range(C)] for p in range(P)]


def sample_pool(
    model: PolicyModel, prompts: Sequence[str], seeds: list[list[int]], config: TrainConfig
) -> Rollout:
    """Candidates as they are drawn in training."""
    sampling = config.sampling
    return rollout(
        model,
        prompts,
        seeds,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        eta=sampling.eta,
        batch_size=sampling.batch_size,
        conditioning=config.method.conditioning.in_training(),
        decode_batch_size=sampling.decode_batch_size,
        features=config.encoder == OWN_FEATURES,
    )

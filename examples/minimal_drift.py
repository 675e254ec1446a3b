"""DRIFT on one page: sampling, prompting, optimisation, over the pure functions of the paper.

    python examples/minimal_drift.py

A few epochs on the embedded model, in under a minute. `drift train` adds what a run needs beside
the method: recipes, checkpoints, resuming, metrics, evaluation.
"""

import torch

from drift.encoders import load_encoder
from drift.functional.advantages import combine, group_advantages
from drift.functional.conditioning import perturb_embedding
from drift.functional.dynamics import gaussian_log_prob
from drift.functional.noise import step_noise, trajectory_noise
from drift.functional.selection import reward_concentrated
from drift.functional.shaping import (
    clip_intrinsic,
    intra_group_diversity,
    trajectory_intrinsic_reward,
)
from drift.functional.surrogate import clipped_surrogate
from drift.models import load_model
from drift.rewards import load_reward
from drift.types import Conditioned, TextEmbeds

PROMPTS = ["a fox", "a whale"]  # P
POOL, GROUP, STEPS, EPOCHS = 12, 6, 5, 5  # C = 2G candidates, G kept, T
GUIDANCE, ETA, LEARNING_RATE, CLIP_RANGE = 2.0, 1.0, 2e-3, 1.5e-3
SCALE, TAU1, TAU2, MIX = 0.05, 0.4, 1.0, 1.0  # s, tau1, tau2, psi
WEIGHT, UPPER, GAMMA = 0.5, 1.0, 1.0  # lambda, sigma, gamma


def policy(model, x, embeds, seeds, k, schedule):
    """The Gaussian of step k (Eq. 2) under the noised prompt (Eq. 34-37)."""
    t = schedule.fractions[k].expand(len(x))
    noise = step_noise(seeds, [k] * len(x), tuple(embeds.prompt.tokens.shape[1:]))
    noised = perturb_embedding(embeds.prompt.tokens, t, noise, SCALE, TAU1, TAU2, MIX)
    told = Conditioned(TextEmbeds(noised), embeds.negative)
    noise_pred = model.predict(x, schedule.timesteps[k].expand(len(x)), told, GUIDANCE)
    return schedule.step(x, noise_pred, k, ETA)


@torch.no_grad()
def sample(model, embeds, seeds, schedule):
    """Trajectories "B T+1 c h w" and the log-probability "B T" of each step."""
    noise = trajectory_noise(seeds, model.latent_shape(), STEPS)
    states, log_probs = [noise[0]], []
    for k in range(STEPS):
        mean, std = policy(model, states[-1], embeds, seeds, k, schedule)
        states.append(mean + std * noise[k + 1])
        log_probs.append(gaussian_log_prob(states[-1], mean, std))
    return torch.stack(states, 1), torch.stack(log_probs, 1)


def epoch(model, optimizer, reward, encoder, schedule, number):
    P = len(PROMPTS)
    embeds = model.encode(PROMPTS).each(lambda e: e.repeat_interleave(POOL, 0))
    seeds = [1000 * number + k for k in range(P * POOL)]
    states, old_log_probs = sample(model, embeds, seeds, schedule)
    images = model.decode(states[:, -1])

    # (i) Sampling: keep the reward-concentrated G of every pool (Section 5.1, App. E).
    with torch.no_grad():
        rewards = reward(images, [p for p in PROMPTS for _ in range(POOL)]).view(P, POOL)
    chosen = reward_concentrated(rewards, GROUP)  # "P G"
    rows = (chosen + POOL * torch.arange(P)[:, None]).flatten()  # those of the flat batch
    kept = rewards.gather(1, chosen)

    # (iii) Optimisation: diversity as a clipped, potential-based reward, decoupled (Section 5.3).
    with torch.no_grad():
        features = encoder(images[rows]).view(P, GROUP, -1)
    diversity = intra_group_diversity(features)
    intrinsic = clip_intrinsic(trajectory_intrinsic_reward(diversity, GAMMA, STEPS), UPPER)
    advantages = combine(group_advantages(kept), group_advantages(intrinsic), WEIGHT).flatten()

    # One clipped policy-gradient step; (ii) the prompt noise is that of the sampling, by its seed.
    kept_seeds = [seeds[i] for i in rows.tolist()]
    noisy = schedule.noisy(ETA).nonzero()[:, 0].tolist()  # the last step draws none: no action
    for k in noisy:
        mean, std = policy(model, states[rows, k], embeds[rows], kept_seeds, k, schedule)
        log_prob = gaussian_log_prob(states[rows, k + 1], mean, std)
        loss = clipped_surrogate(log_prob, old_log_probs[rows, k], advantages, CLIP_RANGE)
        (loss.mean() / len(noisy)).backward()
    torch.nn.utils.clip_grad_norm_(model.trainable_parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return rewards.mean().item(), diversity.mean().item()


def main() -> None:
    model = load_model("menagerie/model")
    model.add_adapter(8, 16, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    reward, encoder = load_reward("pickscore-tiny"), load_encoder("dreamsim-tiny")
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=LEARNING_RATE)
    schedule = model.schedule(STEPS)
    for number in range(1, EPOCHS + 1):
        mean, diversity = epoch(model, optimizer, reward, encoder, schedule, number)
        print(f"epoch {number}: reward {mean:.3f}, diversity {diversity:.3f}")


if __name__ == "__main__":
    main()

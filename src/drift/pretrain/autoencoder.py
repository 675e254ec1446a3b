"""Pre-train the Menagerie's AutoencoderKL: 64x64 pictures <-> 8x8x16 latents."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from drift.pretrain.loop import TEST_SEED, TRAIN_SEED, Schedule, fit, picture_set, to_images

SCHEDULE = Schedule(steps=4500, batch_size=16, learning_rate=2e-3, average=0.995)
KL_WEIGHT = 2e-5  # per latent element, against a reconstruction error per pixel


def build() -> AutoencoderKL:
    blocks = 4
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
    ).to(memory_format=torch.channels_last)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error of pixels and, for crisp outlines, of their differences."""
    loss = F.l1_loss(decoded, images)
    for dim in (2, 3):
        loss = loss + F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim))
    return loss


def train(work: Path, schedule: Schedule = SCHEDULE, pictures: int = 48_000) -> AutoencoderKL:
    """Train; sets `scaling_factor` so that latents have unit variance."""
    torch.manual_seed(0)
    vae = build()
    train_set, _ = picture_set(TRAIN_SEED, pictures)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        images = to_images(train_set[chosen]) * 2 - 1
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return reconstruction_loss(decoded, images) + KL_WEIGHT * posterior.kl().mean() / (
            posterior.mean[0].numel()
        )

    fit("autoencoder", vae, loss_at, schedule, work=work)
    vae.eval()
    latents = encode(vae, train_set[:2000])
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch_size: int = 100) -> Tensor:
    """Posterior means [N, 16, 8, 8] of uint8 pictures, not scaled."""
    parts = range(0, len(pictures), batch_size)
    means = [
        vae.encode(to_images(pictures[i : i + batch_size]) * 2 - 1).latent_dist.mean for i in parts
    ]
    return torch.cat(means)


@torch.no_grad()
def quality(vae: AutoencoderKL, count: int = 1000) -> dict[str, float]:
    """Peak signal-to-noise ratio (dB) of reconstructions of held-out pictures."""
    pictures, _ = picture_set(TEST_SEED, 4000)
    error = 0.0
    for i in range(0, count, 100):
        images = to_images(pictures[i : i + 100])
        decoded = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
        error += float(((decoded.clamp(-1, 1) / 2 + 0.5 - images) ** 2).mean()) / (count / 100)
    return {"psnr_db": round(float(-10 * np.log10(error)), 2)}

"""Pre-train the Menagerie's AutoencoderKL: 64x64 pictures <-> 8x8x8 latents.

It learns the pictures that the model learns, drawings on the grid: then it knows each drawing, a
few numbers say which one stands where, and the diffusion model has little to decide.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.sets import TEST_SEED, picture_set, to_images, training_set

# Of each of two processes: torchrun --nproc-per-node 2 -m drift ...
SCHEDULE = Schedule(steps=4_000, batch_size=16, learning_rate=6e-3, average=0.998)
DECODER = replace(SCHEDULE, learning_rate=3e-3)
BLUR = 0.05  # of the latents' spread: how far beside the point the decoder alone sees them
LATENT_CHANNELS = 8
# Per latent element, against a reconstruction error per pixel: the decoder learns to bear latents
# that are 2 to 4 % of their spread beside the point (measured).
KL_WEIGHT = 1e-3


def build() -> AutoencoderKL:
    blocks = 4
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    ).to(memory_format=torch.channels_last)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Squared error for true colours; absolute error, also of differences, for crisp outlines."""
    loss = 5 * F.mse_loss(decoded, images) + F.l1_loss(decoded, images)
    for dim in (2, 3):
        loss = loss + 0.5 * F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim))
    return loss


def train(shop: Workshop, schedule: Schedule = SCHEDULE, pictures: int = 48_000) -> AutoencoderKL:
    """Train; sets `scaling_factor` so that latents have unit variance."""
    torch.manual_seed(0)
    vae = build()
    train_set, _ = training_set(shop, pictures, on_grid=True)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        images = to_images(train_set[chosen], shop.device) * 2 - 1
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return reconstruction_loss(decoded, images) + KL_WEIGHT * posterior.kl().mean() / (
            posterior.mean[0].numel()
        )

    fit("autoencoder", vae, loss_at, schedule, shop)
    vae.eval()
    return give_pixel_metric(vae.to(CPU), train_set[:2000])


def train_decoder(
    shop: Workshop, vae: AutoencoderKL, schedule: Schedule = DECODER, pictures: int = 48_000
) -> AutoencoderKL:
    """Train the decoder alone further: the latents, and so a model of them, stay as they are."""
    train_set, _ = training_set(shop, pictures, on_grid=True)
    vae.to(shop.device).requires_grad_(False)
    latents = encode(vae, train_set).half()
    spread = float(BLUR / vae.config["scaling_factor"])
    decoder = nn.ModuleList([vae.decoder, vae.post_quant_conv]).requires_grad_(True)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        near = latents[chosen].float()
        decoded = vae.decode(near + spread * torch.randn_like(near)).sample
        return reconstruction_loss(decoded, to_images(train_set[chosen], shop.device) * 2 - 1)

    fit("decoder", decoder, loss_at, schedule, shop)
    return vae.to(CPU).eval().requires_grad_(False)


@torch.no_grad()
def pixel_metric(vae: AutoencoderKL, pictures: np.ndarray, step: float = 0.5) -> Tensor:
    """G "c c": the squared change of the picture for a small change of one latent, by channels.

    Finite differences, four of the 8x8 places at a time, too far apart to overlap much.
    """
    latents = encode(vae, pictures)
    channels, places = latents.shape[1], torch.zeros(1, 1, *latents.shape[2:])
    places[..., 1::4, 1::4] = 1
    middle = vae.decode(latents).sample
    changes = []
    for channel in range(channels):
        direction = torch.zeros(1, channels, 1, 1)
        direction[:, channel] = step
        changes.append((vae.decode(latents + direction * places).sample - middle).flatten())
    D = torch.stack(changes) / step
    return D @ D.T / (len(pictures) * places.sum())


@torch.no_grad()
def give_pixel_metric(vae: AutoencoderKL, pictures: np.ndarray) -> AutoencoderKL:
    """Change the latents' basis so that equal distances are equal changes of the picture.

    The KL term whitens latents: outline and eyelash then have the same variance, a diffusion model
    must decide on all of them at once, and it draws mosaics. In the pixels' own metric the large
    forms have large variance and are decided first. The basis is folded into the two 1x1
    convolutions around the latents, so the autoencoder stays an ordinary one, with the same
    reconstructions; `scaling_factor` gives the latents unit variance.
    """
    values, vectors = torch.linalg.eigh(pixel_metric(vae, pictures[:100]))
    root = values.clamp(min=values.max() * 1e-4).sqrt()
    basis, inverse = vectors * root @ vectors.T, vectors / root @ vectors.T
    before, after = vae.quant_conv, vae.post_quant_conv
    rows = slice(0, len(values))  # the means; the log-variances, used in training only, stay
    before.weight[rows] = (basis @ before.weight[rows].flatten(1))[..., None, None]
    before.bias[rows] = basis @ before.bias[rows]
    after.weight.copy_((after.weight[..., 0, 0] @ inverse)[..., None, None])
    latents = encode(vae, pictures)
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch_size: int = 100) -> Tensor:
    """Posterior means [N, c, 8, 8] of uint8 pictures, not scaled, on the autoencoder's device."""
    device = vae.device
    parts = (pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size))
    return torch.cat(
        [vae.encode(to_images(part, device) * 2 - 1).latent_dist.mean for part in parts]
    )


@torch.no_grad()
def quality(vae: AutoencoderKL, count: int = 1000) -> dict[str, float]:
    """Peak signal-to-noise ratio (dB) of reconstructions of held-out pictures, on the grid."""
    pictures, _ = picture_set(TEST_SEED, 4000, on_grid=True)
    error = 0.0
    for i in range(0, count, 100):
        images = to_images(pictures[i : i + 100])
        decoded = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
        error += float(((decoded.clamp(-1, 1) / 2 + 0.5 - images) ** 2).mean()) / (count / 100)
    return {"psnr_db": round(float(-10 * np.log10(error)), 2)}

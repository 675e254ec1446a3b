import numpy as np
import torch

from drift.menagerie.pretrain.autoencoder import (
    LATENT_CHANNELS,
    build,
    encode,
    give_pixel_metric,
    pixel_metric,
)
from drift.menagerie.scenes import PAINTERS


def unevenness(vae, pictures) -> float:
    """How much more one direction of the latents changes the picture than another."""
    values = torch.linalg.eigvalsh(pixel_metric(vae, pictures, step=0.01))
    assert len(values) == LATENT_CHANNELS
    return float(values.max() / values.min())


def test_the_pixel_metric_changes_the_latents_and_not_the_pictures():
    torch.manual_seed(0)
    vae = build().eval()
    painted = [paint(np.random.default_rng(k)) for k in range(2) for paint in PAINTERS.values()]
    pictures = (np.stack(painted).clip(0, 1) * 255).astype(np.uint8)
    uneven = unevenness(vae, pictures)
    with torch.no_grad():
        before = vae.decode(encode(vae, pictures)).sample
        give_pixel_metric(vae, pictures)
        latents = encode(vae, pictures)
        after = vae.decode(latents).sample
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
    assert abs(latents.std() * vae.config.scaling_factor - 1) < 0.01

    assert uneven > 5 * unevenness(vae, pictures)

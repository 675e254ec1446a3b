import numpy as np
import torch

from drift.menagerie.pretrain import autoencoder
from drift.menagerie.pretrain.autoencoder import (
    LATENT_CHANNELS,
    build,
    encode,
    give_pixel_metric,
    pixel_metric,
)
from drift.menagerie.pretrain.loop import Schedule, Workshop
from drift.menagerie.scenes import PAINTERS


def painted() -> np.ndarray:
    scenes = [paint(np.random.default_rng(k)) for k in range(2) for paint in PAINTERS.values()]
    return (np.stack(scenes).clip(0, 1) * 255).astype(np.uint8)


def unevenness(vae, pictures) -> float:
    """How much more one direction of the latents changes the picture than another."""
    values = torch.linalg.eigvalsh(pixel_metric(vae, pictures, step=0.01))
    assert len(values) == LATENT_CHANNELS
    return float(values.max() / values.min())


def test_the_pixel_metric_changes_the_latents_and_not_the_pictures():
    torch.manual_seed(0)
    vae = build().eval()
    pictures = painted()
    uneven = unevenness(vae, pictures)
    with torch.no_grad():
        before = vae.decode(encode(vae, pictures)).sample
        give_pixel_metric(vae, pictures)
        latents = encode(vae, pictures)
        after = vae.decode(latents).sample
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
    assert abs(latents.std() * vae.config.scaling_factor - 1) < 0.01

    assert uneven > 5 * unevenness(vae, pictures)


def test_the_decoder_trains_further_and_the_latents_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "training_set", lambda *args, **kwargs: (painted(), None))
    torch.manual_seed(0)
    vae = build().eval()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    latents = encode(vae, painted())
    short = Schedule(steps=3, batch_size=4, learning_rate=1e-3, warmup=1)
    trained = autoencoder.train_decoder(Workshop(tmp_path), vae, short)
    assert torch.equal(encode(trained, painted()), latents)
    for name, tensor in trained.state_dict().items():
        kept = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(tensor, before[name]) == kept, name

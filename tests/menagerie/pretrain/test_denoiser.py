import numpy as np
import pytest
import torch

from drift.files.hub import SHIPPED
from drift.menagerie.animals import ANIMALS, STYLES
from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain import autoencoder, denoiser
from drift.menagerie.pretrain.loop import Schedule, Workshop
from drift.menagerie.scenes import PAINTERS


def test_the_stretched_schedule_begins_as_sds_and_leaves_half_a_percent():
    signal = (1 - denoiser.stretched_betas()).cumprod(0).sqrt()
    assert signal[0].item() == pytest.approx((1 - 0.00085) ** 0.5)
    assert signal[-1].item() == pytest.approx(0.005)
    assert (signal.diff() < 0).all()


def test_a_schedule_stretched_to_what_it_leaves_anyway_is_unchanged():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    rest = (1 - betas).prod().sqrt().item()
    torch.testing.assert_close(denoiser.stretched_betas(rest=rest), betas)


def test_every_step_but_the_last_draws_noise_and_all_are_finite_in_diffusers():
    scheduler = denoiser.build_scheduler()
    for steps in (1, 4, 10, 25):
        scheduler.set_timesteps(steps)
        generator, x = torch.Generator().manual_seed(0), torch.ones(1, 4, 2, 2)
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * x, t, x, eta=1.0, generator=generator).prev_sample
            assert x.isfinite().all()


def painted(count: int) -> tuple[np.ndarray, Attributes]:
    """Scenes without animals: the artwork is not at hand in a test."""
    rng = np.random.default_rng(0)
    scenes = [list(PAINTERS.values())[k % len(PAINTERS)](rng) for k in range(count)]
    columns = [np.arange(count) % n for n in (len(ANIMALS), len(STYLES), 1, len(PAINTERS), 2)]
    framing = [np.full(count, value) for value in (0.68, 0.5, 0.6)]
    pictures = (np.stack(scenes).clip(0, 1) * 255).astype(np.uint8)
    return pictures, Attributes(*columns, *framing)


def test_a_shipped_model_trains_further_and_only_its_unet_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "training_set", lambda *args, **kwargs: painted(16))
    parts = denoiser.parts_of(SHIPPED / "model")
    before = {n: p.clone() for n, p in parts.unet.named_parameters()}
    frozen = {n: p.clone() for n, p in parts.text_encoder.named_parameters()}
    pipe = denoiser.train(
        Workshop(tmp_path), parts, Schedule(steps=2, batch_size=4, learning_rate=1e-3)
    )
    moved = [n for n, p in pipe.unet.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(before)
    assert all(torch.equal(p, frozen[n]) for n, p in pipe.text_encoder.named_parameters())
    pipe.save_pretrained(tmp_path / "model")
    again = denoiser.parts_of(tmp_path / "model")
    assert again.unet.config.in_channels == again.vae.config.latent_channels


def test_guidance_can_be_learned(tmp_path, monkeypatch):
    """What is to be predicted without guidance is what was predicted with it."""
    monkeypatch.setattr(denoiser, "training_set", lambda *args, **kwargs: painted(16))
    parts, seen = denoiser.parts_of(SHIPPED / "model"), []

    def spied(unet, noisy, t, embeds, nothing, scale):
        predicted = plain(unet, noisy, t, embeds, nothing, scale)
        twice = [torch.cat([noisy] * 2), torch.cat([t] * 2)]
        words = torch.cat([nothing.expand_as(embeds), embeds])
        untold, told = unet(*twice, words).sample.chunk(2)  # as the pipeline does it
        seen.append((predicted, untold + scale * (told - untold), torch.equal(untold, told)))
        return predicted

    plain = denoiser.guided
    monkeypatch.setattr(denoiser, "guided", spied)
    short = Schedule(steps=2, batch_size=8, learning_rate=1e-4)
    denoiser.train(Workshop(tmp_path), parts, short, guidance_scale=3.0)
    for predicted, as_piped, same in seen:
        torch.testing.assert_close(predicted, as_piped, rtol=1e-3, atol=1e-4)
        assert not same
    assert len(seen) == 2
    assert (tmp_path / "guided.pt").exists() and not (tmp_path / "denoiser.pt").exists()


def test_a_new_unet_takes_the_tower_of_a_model_and_the_latents_of_its_autoencoder():
    shipped = denoiser.parts_of(SHIPPED / "model")
    parts = denoiser.new_parts(autoencoder.build(), SHIPPED / "model")
    assert parts.unet.config.in_channels == autoencoder.LATENT_CHANNELS
    assert parts.unet.config.cross_attention_dim == parts.text_encoder.config.hidden_size
    old, new = (p.text_encoder.state_dict() for p in (shipped, parts))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_picture_has_captions_its_animal_alone_and_no_words():
    parts, (_, truth) = denoiser.parts_of(SHIPPED / "model"), painted(3)
    ids = denoiser.caption_ids(truth, parts.tokenizer, np.random.default_rng(0))
    assert ids.shape[:2] == (3, denoiser.CAPTIONS + 2)
    told = [parts.tokenizer.batch_decode(row, skip_special_tokens=True) for row in ids.long()]
    assert told[1][-2:] == ["a dog", ""]
    assert all("dog" in words for words in told[1][:-1])
    assert len(set(told[1])) > 3

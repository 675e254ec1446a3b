import pytest
import torch
from diffusers import DDIMScheduler

from drift.errors import UserError
from drift.methods.parts import CleanPrompt, NoisedPrompt
from drift.models import load_model
from drift.training.rollout import decode, draw_by, late_features

CLEAN = CleanPrompt()
SETTINGS = {"steps": 4, "guidance_scale": 2.0, "eta": 1.0}


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model))


def draw(model, seeds, batch_size=8, conditioning=CLEAN, **changes):
    prompts = ["a fox", "a bee"][: len(seeds)]
    sampler = SETTINGS | {k: changes.pop(k) for k in SETTINGS.keys() & changes.keys()}
    others = {"batch_size": batch_size, "conditioning": conditioning}
    return draw_by(model, prompts, seeds, sampler, **others, **changes)


def test_shapes_and_range(model):
    out = draw(model, [[1, 2, 3], [4, 5, 6]])
    assert out.latents.shape == (2, 3, 5, 16, 8, 8)
    assert out.log_probs.shape == (2, 3, 4)
    assert out.images.shape == (2, 3, 3, 64, 64)
    assert out.images.min() >= 0
    assert out.images.max() <= 1


@pytest.mark.parametrize("conditioning", [CleanPrompt(), NoisedPrompt()])
def test_a_sample_does_not_depend_on_its_batch(model, conditioning):
    together = draw(model, [[1, 2, 3], [4, 5, 6]], conditioning=conditioning)
    alone = draw(model, [[1, 2, 3], [4, 5, 6]], batch_size=1, conditioning=conditioning)
    torch.testing.assert_close(together.latents, alone.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.log_probs, alone.log_probs, rtol=1e-5, atol=1e-5)


def test_equal_seeds_equal_samples(model):
    out = draw(model, [[7, 7, 8]])
    again = draw(model, [[7, 7, 8]])
    assert torch.equal(out.latents, again.latents)
    torch.testing.assert_close(out.images[0, 0], out.images[0, 1])
    assert (out.images[0, 0] - out.images[0, 2]).abs().max() > 0.01


def test_the_prompts_noise_changes_the_sample_and_repeats(model):
    clean = draw(model, [[1, 2]])
    noisy = draw(model, [[1, 2]], conditioning=NoisedPrompt())
    again = draw(model, [[1, 2]], conditioning=NoisedPrompt())
    assert not torch.equal(clean.latents, noisy.latents)
    assert torch.equal(noisy.latents, again.latents)


def test_eta_zero_is_deterministic_and_has_no_log_probability(model):
    out = draw(model, [[1]], eta=0.0)
    assert (out.log_probs == 0).all()


def test_a_last_step_to_the_clean_image_is_deterministic_and_has_no_log_probability(tiny_model):
    model = load_model(str(tiny_model))
    schedule = model.schedule(4)
    assert schedule.noisy(1.0).all()  # the final alpha of Stable Diffusion is below 1
    model.pipe.scheduler = DDIMScheduler.from_config(
        model.pipe.scheduler.config, set_alpha_to_one=True
    )
    schedule = model.schedule(4)
    assert schedule.noisy(1.0).tolist() == [True, True, True, False]
    assert schedule.next_alphas[-1] == 1
    out = draw(model, [[1, 2]])
    assert (out.log_probs[:, :, 3] == 0).all()
    assert (out.log_probs[:, :, :3] != 0).all()
    x, embeds = out.latents[0, :, 3], out.conditioned[[0, 0]]
    with torch.no_grad():
        noise_pred = model.predict(x, schedule.timesteps[3:].expand(2), embeds, 2.0)
    mean, std = schedule.step(x, noise_pred, 3, 1.0)
    assert std == 0
    torch.testing.assert_close(out.latents[0, :, 4], mean, rtol=1e-5, atol=1e-5)


def test_features_are_the_mean_over_the_last_quarter_of_the_steps(model):
    out = draw(model, [[1, 2]], steps=8, features=True)
    x, embeds = out.latents[0], out.conditioned[[0, 0]]
    times = model.schedule(8).timesteps
    with torch.no_grad(), model.capture_features() as seen:
        for k in range(8):
            model.predict(x[:, k], times[k].expand(2), embeds, 2.0)
    assert out.features.shape == (1, 2, 16 * 64)
    assert out.features.dtype == torch.float32
    torch.testing.assert_close(out.features[0], (seen[6] + seen[7]) / 2)
    one, last = [torch.ones(1, 1)], [torch.ones(1, 1) * 3]
    for steps, expected in [(1, 3.0), (3, 3.0), (4, 3.0), (7, 3.0), (8, 2.0)]:
        assert late_features(one * (steps - 1) + last).item() == expected


def test_capturing_changes_no_sample(model):
    seeds = [[1, 2, 3], [4, 5, 6]]
    plain, captured = (draw(model, seeds, features=f) for f in (False, True))
    assert plain.features is None
    assert plain.keep(torch.tensor([[0], [1]])).features is None
    for name in ("latents", "log_probs", "images"):
        assert torch.equal(getattr(plain, name), getattr(captured, name))


def test_features_do_not_depend_on_the_batch(model):
    seeds = [[1, 2, 3], [4, 5, 6]]
    together, alone, again = (
        draw(model, seeds, batch_size=n, features=True).features for n in (8, 1, 8)
    )
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert torch.equal(together, again)
    assert (together[0, 0] - together[0, 1]).abs().max() > 0.01


def test_keeping_candidates_keeps_their_whole_rows(model):
    out = draw(model, [[1, 2, 3], [4, 5, 6]], features=True)
    kept = out.keep(torch.tensor([[0, 2], [1, 2]]))
    assert kept.seeds.tolist() == [[1, 3], [5, 6]]
    assert torch.equal(kept.latents[1, 0], out.latents[1, 1])
    assert torch.equal(kept.images[0, 1], out.images[0, 2])
    assert torch.equal(kept.log_probs[1, 1], out.log_probs[1, 2])
    assert torch.equal(kept.features[0, 1], out.features[0, 2])


class Card:
    """A module's memory, as a card with room for so many rows: more of them are out of memory."""

    def __init__(self, module, room):
        self.tried, self.room = [], room
        self.hook = module.register_forward_pre_hook(self.enter)

    def enter(self, module, inputs):
        self.tried.append(len(inputs[0]))
        if self.tried[-1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


def test_decoding_a_few_at_a_time_gives_the_same_images(model):
    x = torch.randn(5, *model.latent_shape())
    torch.testing.assert_close(decode(model, x, 5), decode(model, x, 2), rtol=0, atol=1e-5)


def test_what_does_not_fit_into_memory_is_sampled_and_decoded_in_halves(model):
    seeds = [[1, 2, 3], [4, 5, 6]]
    whole = draw(model, seeds, batch_size=6)
    with Card(model.network, room=6) as network, Card(model.pipe.vae.decoder, room=1) as vae:
        halved = draw(model, seeds, batch_size=6)
    assert network.tried == [12] + [6] * 8  # with their unconditional twins; two halves, 4 steps
    assert vae.tried == [3, 1, 1, 1] * 2
    torch.testing.assert_close(whole.latents, halved.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.images, halved.images, rtol=1e-3, atol=1e-3)
    with Card(model.network, room=1), pytest.raises(UserError, match="not even one row fits"):
        draw(model, seeds)

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from drift.errors import UserError
from drift.functional.dynamics import ddim_step
from drift.models import load_model


@pytest.fixture(params=["epsilon", "v_prediction"])
def folder(request, tiny_models):
    return tiny_models[request.param]


@pytest.mark.parametrize("steps", [1, 3, 10, 50])
def test_the_schedule_and_steps_are_diffusers_own(folder, steps):
    model = load_model(str(folder))
    # noise is what both are given here, whatever the network predicts
    scheduler = DDIMScheduler.from_config(model.pipe.scheduler.config, prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    schedule = model.schedule(steps)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    x, noise_pred = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    for k, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(noise_pred, t, x, eta=1.0, variance_noise=torch.zeros_like(x))
        mean, std = ddim_step(x, noise_pred, schedule.alphas[k], schedule.next_alphas[k], 1.0)
        # epsilon over the noisiest alpha is divided by up to 20: relative to the size of the mean
        torch.testing.assert_close(mean, expected.prev_sample, rtol=1e-5, atol=1e-5)
        assert std > 0


def test_guidance_one_skips_the_unconditional_pass(folder):
    model, calls = load_model(str(folder)), []
    model.pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    x, t = torch.randn(3, *model.latent_shape), torch.tensor([999, 500, 100])
    embeds = model.encode_prompts(["a fox", "a bee", "an ant"])
    with torch.no_grad():
        plain = model.predict_noise(x, t, embeds, 1.0)
        guided = model.predict_noise(x, t, embeds, 3.0)
        nothing = model.predict_noise(x, t, model.empty_prompt.expand_as(embeds), 1.0)
    assert calls == [3, 6, 3]
    torch.testing.assert_close(guided, nothing + 3.0 * (plain - nothing), rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_trains_only_itself(folder):
    model = load_model(str(folder))
    x, t = torch.randn(1, *model.latent_shape), torch.tensor([500])
    embeds = model.encode_prompts(["a fox"])
    with torch.no_grad():
        before = model.predict_noise(x, t, embeds, 2.0)
        model.add_adapter(4, 8, ("to_q", "to_v"), seed=0)
        after = model.predict_noise(x, t, embeds, 2.0)
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    names = {n for n, p in model.pipe.unet.named_parameters() if p.requires_grad}
    assert names
    assert all("lora" in name for name in names)


def test_the_saved_adapter_loads_in_plain_diffusers(folder, tmp_path):
    model = load_model(str(folder))
    model.add_adapter(4, 16, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(0, 0.1)
    model.save_adapter(tmp_path)
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([800, 20])
    embeds = model.encode_prompts(["a fox", "a bee"])
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    with torch.no_grad():
        base = plain.unet(x, t, embeds).sample
        plain.load_lora_weights(tmp_path)
        theirs = plain.unet(x, t, embeds).sample
        ours = model.pipe.unet(x, t, embeds).sample
        with model.reference():
            off = model.pipe.unet(x, t, embeds).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(off, base, rtol=1e-5, atol=1e-5)
    assert (ours - base).abs().max() > 0.01

    again = load_model(str(folder))
    again.add_adapter(4, 16, ("to_q", "to_k", "to_v", "to_out.0"), seed=1)
    again.load_adapter(tmp_path)
    for mine, theirs in zip(
        model.trainable_parameters(), again.trainable_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no file or folder"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no model_index.json"):
        load_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="is a FluxPipeline"):
        load_model(str(tmp_path))

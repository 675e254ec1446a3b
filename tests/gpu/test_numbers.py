"""What a card computes: the ratio, scaled gradients, pictures, rewards and features."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from drift.encoders import clip as clip_encoder
from drift.encoders import dino
from drift.recipes import load_recipe
from drift.training.policy import load_policy, use_tf32
from drift.training.preflight import TOLERANCE, ratio_errors
from drift.training.rollout import sample_pool
from drift.training.update import Learner
from tests.golden.pictures import pictures
from tests.rewards.conftest import GOLDEN as REWARDS
from tests.rewards.conftest import golden_images  # noqa: F401 - a fixture
from tests.rewards.test_golden import LOAD
from tests.training.test_update import ADVANTAGES, PROMPTS, kept_rollout, learn, settings

pytestmark = pytest.mark.gpu
SIXTEEN = [[10 * p + c for c in range(8)] for p in range(2)]


def in_dtype(config, dtype):
    return replace(config, model=replace(config.model, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tf32", [False, True])
def test_the_ratio_between_batches_of_16_and_of_2(policy, told, dtype, tf32):
    config = in_dtype(settings(micro_batch_size=2), dtype)
    config = replace(config, sampling=replace(config.sampling, batch_size=16))
    model = policy(dtype)
    use_tf32(tf32)
    kept = sample_pool(model, PROMPTS, SIXTEEN, config)
    by_step = ratio_errors(model, kept, config).amax(0)
    told(f"ratio error by step, {dtype}, TF32 {'on' if tf32 else 'off'}", by_step.tolist())
    assert by_step.max() <= (TOLERANCE if dtype == "float32" and not tf32 else 0.1)


def test_a_run_in_float32_switches_tf32_off_and_one_in_half_on(tiny_model, device):
    for dtype in ("float16", "float32"):
        own = [f"model.name={tiny_model}", f"model.dtype={dtype}", f"device={device}"]
        load_policy(load_recipe("menagerie", own))
        assert torch.backends.cuda.matmul.allow_tf32 == (dtype == "float16")
        assert torch.backends.cudnn.allow_tf32 == (dtype == "float16")


def test_fifty_scaled_steps_survive_an_overflow(policy, told, device):
    model = policy("float16")
    config = in_dtype(settings(updates_per_epoch=1, micro_batch_size=32), "float16")
    kept = kept_rollout(model, config)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=10)
    learner, skipped, scales = Learner(optimizer, scaler, 32), [], []
    for step in range(50):
        size = 1e30 if step == 25 else 1.0  # fits float32, and no float16
        before = [p.detach().clone() for p in model.trainable_parameters()]
        (stats,) = learn(model, learner, kept, size * ADVANTAGES, config)
        same = all(map(torch.equal, before, model.trainable_parameters()))
        assert same == stats.skipped
        skipped.append(stats.skipped)
        assert learner.skipped == int(stats.skipped)
        scales.append(scaler.get_scale())
    told("gradient scale by step", scales)
    assert [step for step, was in enumerate(skipped) if was] == [25]
    assert scales[25] == scales[24] / 2
    assert scales[-1] > scales[25]


@pytest.mark.parametrize(("dtype", "most"), [("float16", 1e-2), ("bfloat16", 6e-2)])
def test_half_an_autoencoder_draws_the_same(policy, told, device, dtype, most):
    latents = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    whole, half = (policy(each).decode(latents) for each in ("float32", dtype))
    told(f"autoencoder, {dtype}: largest difference of a pixel", (whole - half).abs().max().item())
    assert (whole - half).abs().max() <= most


def test_a_rollout_is_the_processors(policy, told):
    config = settings()
    there, here = (
        sample_pool(model, PROMPTS, SIXTEEN, config)
        for model in (policy(), policy(on=torch.device("cpu")))
    )
    told(
        "rollout: largest difference of a latent", (there.latents - here.latents).abs().max().item()
    )
    torch.testing.assert_close(there.latents, here.latents, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there.log_probs, here.log_probs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", LOAD)
def test_rewards_are_the_references(name, golden_images, told, device):  # noqa: F811
    kind = {"pickscore": "clip", "clip": "clip", "aesthetic": "aesthetic"}
    module = __import__(f"drift.rewards.{name.removesuffix('.1')}", fromlist=["load"])
    load = module.load_v21 if name == "hpsv2.1" else module.load
    folder = REWARDS / kind.get(name, name.removesuffix(".1"))
    more = [REWARDS / "clip"] if name == "aesthetic" else []
    reward = load(folder, *more, device=str(device))
    expected = json.loads((REWARDS / "scores.json").read_text())
    prompts = iter(expected["prompts"])
    scores = torch.cat([reward(part, [next(prompts), next(prompts)]) for part in golden_images])
    wanted = torch.tensor(expected[name])
    told(f"{name}: largest difference of a score", (scores.cpu() - wanted).abs().max().item())
    torch.testing.assert_close(scores.cpu(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("load", "path"), [(clip_encoder.load, "clip"), (dino.load, "dinov2")])
def test_features_are_the_references(load, path, told, device):
    folder = REWARDS.parent / "encoders" / path
    encoder, expected = load(folder, device=str(device)), load_file(folder / "expected.safetensors")
    for name, images in pictures().items():
        features = encoder(images.to(device)).cpu()
        told(f"{path}, {name}: difference", (features - expected[name]).abs().max().item())
        torch.testing.assert_close(features, expected[name], rtol=0, atol=2e-5)

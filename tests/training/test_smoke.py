"""Runs from end to end on tiny random pipelines in the layouts of SD v1.5 and SD v2.1.

Recipe, loaders, rewards and encoder are the shipped ones; 64x64 pictures from 4x8x8 latents.
"""

import json

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from drift.evaluation.evaluate import evaluate
from drift.evaluation.generate import generate
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.tracking import read_metrics
from tests.evaluation.test_generate import SEEDS, plain_diffusers

SMALL = ["threads=1", "checkpoint_every=2"]
LESS = [  # one update of one prompt; sampled and replayed in batches of 4, as otherwise of 12
    "epochs=1",
    "sampling.prompts_per_epoch=1",
    "sampling.pool_size=4",
    "sampling.batch_size=4",
    "optimizer.micro_batch_size=4",
    "optimizer.updates_per_epoch=1",
]
SETTINGS = {"steps": 3, "guidance_scale": 3.0, "eta": 1.0}
LORA = "checkpoints/step-000002/pytorch_lora_weights.safetensors"


def smoke(model, output, *overrides):
    own = [f"model.name={model}", f"output={output}", *overrides]
    return train(load_recipe("smoke", [*SMALL, *own]), progress=False)


@pytest.fixture(scope="module")
def run_of(sd_models, tmp_path_factory):
    """(layout, method) -> its run, trained once."""
    runs, folder = {}, tmp_path_factory.mktemp("smoke")

    def trained(name, method):
        if (name, method) not in runs:
            output = folder / f"{name}-{method}"
            runs[name, method] = smoke(sd_models[name], output, f"method={method}")
        return runs[name, method]

    return trained


def assert_sound(run, updates):
    """Every update was taken, and the first of the run saw the policy it was sampled from."""
    lines = read_metrics(run)
    assert len(lines) == updates
    assert lines[0]["first_clip_fraction"] == lines[0]["clip_fraction"] == 0
    assert lines[0]["max_ratio_error"] < 1e-6
    assert all(line["grad_norm"] > 0 and not line["skipped"] for line in lines)
    for name in ("reward_mean", "diversity", "loss"):
        assert np.isfinite([line[name] for line in lines]).all()
    return lines


@pytest.fixture(scope="module")
def bases(sd_models):
    """Layout -> what plain diffusers draws with the base model."""
    return {
        name: np.stack(plain_diffusers(model, "a fox", **SETTINGS))
        for name, model in sd_models.items()
    }


def assert_drawn_alike(run, model, base, out, **trained):
    """`drift generate` and plain diffusers with the same weights, which are not the base's."""
    *paths, _ = generate(run, ["a fox"], seeds=SEEDS, out=out, **SETTINGS)
    ours = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)
    theirs = np.stack(plain_diffusers(model, "a fox", **SETTINGS, **trained))
    assert ours.shape == (2, 64, 64, 3)
    assert np.abs(ours - theirs).max() <= 1
    assert not np.array_equal(theirs, base)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sd15", "drift"),
        ("sd21", "grpo"),
        pytest.param("sd15", "grpo", marks=pytest.mark.slow),
        pytest.param("sd21", "drift", marks=pytest.mark.slow),
    ],
)
def test_a_run_from_end_to_end(run_of, sd_models, bases, tmp_path, name, method):
    run, model = run_of(name, method), sd_models[name]
    lines = assert_sound(run, updates=4)
    assert (lines[0]["intrinsic_mean"] > 0) == (method == "drift")
    weights = load_file(run / LORA)
    assert len(weights) == 2 * 128  # as in the full size: two attentions in 16 blocks
    for key, tensor in weights.items():
        # One position, as in the middle of 8x8 latents, leaves self-attention nothing to choose.
        idle = "mid_block" in key and ("attn1.to_q" in key or "attn1.to_k" in key)
        assert idle or tensor.abs().max() > 0  # B has left 0

    (tmp_path / "prompts.txt").write_text("a fox\na bee\n")
    quick = ["images_per_prompt=2", "steps=2", f"prompts={tmp_path / 'prompts.txt'}"]
    base, last = evaluate([run], overrides=quick)
    figures = [json.loads((f / "metrics.json").read_text())["figures"] for f in (base, last)]
    for figure in ("reward/pickscore-tiny", "diversity/dreamsim-tiny"):
        of_base, of_last = (found[figure]["mean"] for found in figures)
        assert np.isfinite([of_base, of_last]).all()
        assert of_base != of_last

    lora = run / "checkpoints/step-000002"
    assert_drawn_alike(run, model, bases[name], tmp_path / "out", lora=lora)


@pytest.mark.parametrize(
    ("name", "method", "dtype"), [("sd15", "grpo", "bfloat16"), ("sd21", "drift", "float16")]
)
def test_a_run_in_half_precision(sd_models, tmp_path, name, method, dtype):
    own = [f"method={method}", f"model.dtype={dtype}", "sampling.steps=2"]
    run = smoke(sd_models[name], tmp_path / "run", *LESS, *own)
    assert_sound(run, updates=1)
    state = json.loads((run / "checkpoints/step-000001/state.json").read_text())
    assert bool(state["scaler"]) == (dtype == "float16")


@pytest.mark.parametrize(("name", "method"), [("sd15", "drift"), ("sd21", "grpo")])
def test_gradient_checkpointing_trains_the_same(run_of, sd_models, tmp_path, name, method):
    own = [f"method={method}", "model.gradient_checkpointing=true", "epochs=1"]
    lines = assert_sound(smoke(sd_models[name], tmp_path / "run", *own), updates=2)
    for ours, theirs in zip(lines, read_metrics(run_of(name, method)), strict=False):
        for figure in ("reward_mean", "grad_norm"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_a_run_of_the_whole_unet(sd_models, bases, tmp_path, name):
    own = ["model.tune=full", "optimizer.learning_rate=1e-5"]
    run = smoke(sd_models[name], tmp_path / "run", *LESS, *own)
    assert_sound(run, updates=1)
    unet = UNet2DConditionModel.from_pretrained(run / "checkpoints/step-000001")
    assert_drawn_alike(run, sd_models[name], bases[name], tmp_path / "out", parts={"unet": unet})

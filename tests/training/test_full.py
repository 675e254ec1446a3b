"""`model.tune: full` from end to end: train, resume, evaluate, compare, generate, doctor."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from drift.errors import UserError
from drift.evaluation.evaluate import evaluate
from drift.evaluation.generate import generate
from drift.recipes import load_recipe
from drift.report.compare import compare
from drift.training.checkpoint import list_checkpoints
from drift.training.doctor import examine
from drift.training.loop import train
from drift.training.policy import load_policy
from drift.training.preflight import check_replay
from drift.training.rollout import pool_seeds, sample_pool
from drift.training.tracking import read_metrics
from tests.evaluation.test_generate import SEEDS, plain_diffusers
from tests.training.test_loop import SMALL

FULL = [*SMALL, "model.tune=full", "optimizer.learning_rate=1e-4"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(model, output, *overrides):
    own = [f"model.name={model}", f"output={output}"]
    return load_recipe("menagerie", [*FULL, *own, *overrides])


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """Two epochs with a penalty that holds to the base."""
    output = tmp_path_factory.mktemp("full") / "run"
    return train(config(tiny_model, output, "method=grpo-kl"), progress=False)


def timeless(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run)]


def assert_equal_checkpoints(one, two):
    for name in (WEIGHTS, "optimizer.safetensors"):
        a, b = (load_file(folder / "checkpoints/step-000002" / name) for folder in (one, two))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_every_weight_is_trained_from_the_base_and_held_to_it(run, tiny_model):
    lines = read_metrics(run)
    assert lines[0]["first_clip_fraction"] == 0
    assert lines[0]["max_ratio_error"] < 1e-6
    assert lines[0]["reference_kl"] == 0 < lines[1]["reference_kl"]
    assert all(line["grad_norm"] > 0 and not line["skipped"] for line in lines)
    base = load_file(tiny_model / "unet" / WEIGHTS)
    trained = load_file(run / "checkpoints/step-000002" / WEIGHTS)
    assert base.keys() == trained.keys()
    assert all(not torch.equal(base[key], trained[key]) for key in base)
    (first, last), damaged = list_checkpoints(run)
    assert not damaged
    assert (first.weights.name, last.weights.parent.name) == (WEIGHTS, "step-000002")


def in_two_parts(model, output, *own):
    """A run that is stopped after its first epoch, and resumed."""
    train(config(model, output, *own, "epochs=1"), progress=False)
    return train(config(model, output, *own), resume=True, progress=False)


def test_a_resumed_run_is_the_uninterrupted_one(run, tiny_model, tmp_path):
    parts = in_two_parts(tiny_model, tmp_path / "parts", "method=grpo-kl")
    assert_equal_checkpoints(run, parts)
    assert timeless(run) == timeless(parts)


def test_so_is_one_in_float16_with_its_scaler(tiny_model, tmp_path):
    own = ["method=grpo", "model.dtype=float16", "sampling.steps=2", "sampling.pool_size=2"]
    whole = train(config(tiny_model, tmp_path / "whole", *own), progress=False)
    parts = in_two_parts(tiny_model, tmp_path / "parts", *own)
    assert_equal_checkpoints(whole, parts)
    assert timeless(whole) == timeless(parts)
    assert not any(line["skipped"] for line in timeless(whole))
    assert json.loads((whole / "checkpoints/step-000002/state.json").read_text())["scaler"]
    weights = load_file(whole / "checkpoints/step-000002" / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_full_run_is_not_resumed_as_a_lora_nor_the_other_way(run, tiny_model, tmp_path):
    with pytest.raises(UserError, match="its config.yaml has other model"):
        train(config(tiny_model, run, "method=grpo-kl", "model.tune=lora"), resume=True)
    lora = config(tiny_model, tmp_path / "lora", "model.tune=lora", "epochs=1")
    train(lora, progress=False)
    with pytest.raises(UserError, match="its config.yaml has other model"):
        train(config(tiny_model, tmp_path / "lora", "epochs=1"), resume=True, progress=False)


def test_checkpoints_are_judged_each_by_its_own_weights_and_the_base_by_its(run, tiny_model):
    (run / "prompts.txt").write_text("a fox\na cat\n")
    quick = ["images_per_prompt=2", "steps=2", "guidance_scale=2", f"prompts={run / 'prompts.txt'}"]
    base, first, last = evaluate([run], checkpoints="all", overrides=quick)
    pixels = [np.load(folder / "images.npz")["images"] for folder in (base, first, last)]
    (plain,) = evaluate(
        [tiny_model], out=run / "plain", overrides=[*quick, "rewards=jpeg-compressibility"]
    )
    assert np.array_equal(np.load(plain / "images.npz")["images"], pixels[0])
    for folder, images in zip((first, last), pixels[1:], strict=True):
        drawn = generate(
            run,
            ["a fox"],
            seeds=[1_000_000, 1_000_001],
            out=run / "drawn" / folder.name,
            steps=2,
            guidance_scale=2.0,
            checkpoint=str(int(folder.name[-6:])),
        )
        alone = np.stack([np.asarray(Image.open(path)) for path in drawn[:-1]]).astype(int)
        assert np.abs(alone - images[0]).max() <= 1
        assert not np.array_equal(images, pixels[0])
    sums = [json.loads((f / "metrics.json").read_text())["adapter"] for f in (first, last)]
    assert sums[0]["sha256"] != sums[1]["sha256"]
    page = compare([run], run / "page").read_text()
    assert "grpo-kl" in page.lower()


def test_a_run_draws_what_plain_diffusers_draws(run, tiny_model, tmp_path):
    settings = {"steps": 4, "guidance_scale": 3.0, "eta": 1.0}
    *paths, _ = generate(run, ["a fox"], seeds=SEEDS, out=tmp_path, **settings)
    ours = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)
    unet = UNet2DConditionModel.from_pretrained(run / "checkpoints/step-000002")
    theirs = plain_diffusers(tiny_model, "a fox", **settings, parts={"unet": unet})
    assert np.abs(ours - np.stack(theirs)).max() <= 1
    base = plain_diffusers(tiny_model, "a fox", **settings)
    assert np.abs(ours - np.stack(base)).max() > 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_doctor_counts_what_is_trained(tiny_model, tmp_path, dtype):
    lines = []
    assert examine(config(tiny_model, tmp_path / "run", f"model.dtype={dtype}"), lines.append)
    told = dict(line.split(maxsplit=1) for line in lines)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    assert told["trained"] == f"full: {unet.num_parameters() / 1e6:.2f} M weights"
    assert told["dtype"] == dtype
    assert not (tmp_path / "run").exists()


def test_a_rollout_of_the_base_is_found_out(run, tiny_model):
    asked = config(tiny_model, run, "method=grpo")
    model = load_policy(asked, run / "checkpoints/step-000002")
    with model.reference():
        kept = sample_pool(model, ["a fox", "a cat"], pool_seeds(asked, 1), asked)
    with pytest.raises(UserError, match="the rollout was sampled from the base model"):
        check_replay(model, kept, asked)

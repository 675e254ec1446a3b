"""Runs that begin with a LoRA, continued or fused: what they draw, resume, record and export."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.evaluation.evaluate import evaluate
from drift.evaluation.export import export
from drift.evaluation.generate import generate
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.policy import load_policy
from drift.training.rollout import pool_seeds, sample_pool
from drift.training.tracking import read_metrics
from tests.evaluation.test_generate import SEEDS, plain_diffusers
from tests.models.loras import LEFT_OUT, write_diffusers, write_kohya
from tests.training.test_loop import assert_equal_weights, timeless
from tests.training.test_smoke import assert_sound

SMALL = [
    "method=grpo-kl",  # whose penalty wants the reference
    "threads=1",
    "reward=jpeg-compressibility",
    "encoder=vae",
    "sampling.steps=2",
    "sampling.prompts_per_epoch=1",
    "sampling.pool_size=2",
    "sampling.group_size=2",
    "optimizer.updates_per_epoch=1",
]
SETTINGS = {"steps": 3, "guidance_scale": 3.0, "eta": 1.0}
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(sd_models, tmp_path_factory):
    """Of kohya's form, with a rank of its own in some layers, as they often have."""
    file = tmp_path_factory.mktemp("lora") / "mine.safetensors"
    return write_kohya(sd_models["sd15"], file, rank_pattern={"attn2.to_k": 2})


@pytest.fixture(scope="module")
def config(sd_models, lora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def build(use: str, name: str = "", *overrides: str):
        own = [f"model.name={sd_models['sd15']}", f"model.adapter={lora}"]
        own += [f"model.adapter_use={use}", f"output={folder / (name or use)}"]
        return load_recipe("smoke", [*SMALL, *own, *overrides])

    return build


@pytest.fixture(scope="module")
def runs(config):
    return {use: train(config(use), progress=False) for use in ("continue", "fuse")}


def with_lora(model, *loras, fused=()):
    """Plain diffusers' UNet with LoRAs fused into it, and others on it."""
    pipe = StableDiffusionPipeline.from_pretrained(model, **LEFT_OUT)
    for file in fused:
        pipe.load_lora_weights(file)
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    for k, file in enumerate(loras):
        pipe.load_lora_weights(file, adapter_name=str(k))
    if loras:
        pipe.set_adapters([str(k) for k in range(len(loras))])
    return {"unet": pipe.unet}


def assert_drawn_alike(run, model, out, checkpoint, parts):
    paths = generate(run, ["a fox"], seeds=SEEDS, out=out, checkpoint=checkpoint, **SETTINGS)[:2]
    ours = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)
    theirs = np.stack(plain_diffusers(model, "a fox", parts=parts, **SETTINGS))
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("use", ["continue", "fuse"])
def test_a_run_begins_at_the_lora_and_ends_in_plain_diffusers(runs, sd_models, lora, tmp_path, use):
    run, model = runs[use], sd_models["sd15"]
    lines = assert_sound(run, updates=2)
    assert lines[0]["reference_kl"] == 0 < lines[-1]["reference_kl"]  # from the policy at the start
    assert_drawn_alike(run, model, tmp_path / "base", "base", with_lora(model, lora))
    last = run / "checkpoints/step-000002"
    begun = {"fused": [lora]} if use == "fuse" else {}
    assert_drawn_alike(run, model, tmp_path / "last", "last", with_lora(model, last, **begun))
    if use == "fuse":  # both at full strength are the same but for rounding
        assert_drawn_alike(run, model, tmp_path / "two", "last", with_lora(model, lora, last))


@pytest.mark.parametrize("use", ["continue", "fuse"])
def test_the_first_samples_are_those_of_diffusers_with_the_lora(config, sd_models, lora, use):
    """The very trajectories of an epoch, by noise of the same seeds."""
    built = config(use)
    pool = sample_pool(load_policy(built), ["a fox"], pool_seeds(built, 1), built)
    pipe = StableDiffusionPipeline.from_pretrained(sd_models["sd15"], **LEFT_OUT)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(lora)
    generators = [torch.Generator().manual_seed(seed) for seed in pool.seeds[0].tolist()]
    drawn = pipe(
        ["a fox"] * len(generators),
        num_inference_steps=2,
        guidance_scale=built.sampling.guidance_scale,
        eta=1.0,
        generator=generators,
        output_type="latent",
    ).images
    torch.testing.assert_close(pool.latents[0, :, -1], drawn, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use", ["continue", "fuse"])
def test_a_resumed_run_is_the_same_to_the_bit(config, runs, use):
    cut = config(use, f"cut-{use}", "epochs=1")
    train(cut, progress=False)
    run = train(config(use, f"cut-{use}"), resume=True, progress=False)
    assert_equal_weights(run, runs[use])
    assert timeless(run) == timeless(runs[use])


def test_another_lora_at_its_place_is_not_resumed(config, runs, lora, tmp_path):
    written = json.loads((runs["fuse"] / "environment.json").read_text())["weights"]
    assert list(written["adapter"][0]["sha256"]) == ["mine.safetensors"]
    run = shutil.copytree(runs["fuse"], tmp_path / "run")
    whole = lora.read_bytes()
    try:
        save_file({k: 2 * t for k, t in load_file(lora).items()}, lora)
        again = config("fuse", "fuse", f"output={run}", "epochs=3")
        with pytest.raises(UserError, match="begun with others: adapter, mine.safetensors of"):
            train(again, resume=True, progress=False)
    finally:
        lora.write_bytes(whole)


def test_step_0_of_an_evaluation_is_the_policy_at_the_start(runs, sd_models, lora, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\n")
    quick = ["images_per_prompt=2", "steps=2", f"prompts={tmp_path / 'prompts.txt'}"]
    quick += ["rewards=jpeg-compressibility", "encoders=dreamsim-tiny"]
    folders = evaluate(list(runs.values()), overrides=quick)
    plain = evaluate([sd_models["sd15"]], overrides=quick, out=tmp_path / "plain")
    told, drawn = [], []
    for folder in (folders[0], folders[2], plain[0]):
        told.append(json.loads((folder / "metrics.json").read_text())["model"])
        drawn.append(np.load(folder / "images.npz")["images"].astype(int))
    assert told[0]["name"] == f"{sd_models['sd15']} + {lora}"
    assert told[0] == told[1] and told[0]["sha256"] != told[2]["sha256"]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1 and np.abs(drawn[0] - drawn[2]).max() > 1


@pytest.mark.parametrize("use", ["continue", "fuse"])
def test_an_export_is_read_by_plain_diffusers(runs, sd_models, lora, tmp_path, use):
    file = export(runs[use], tmp_path / "mine.safetensors")
    begun = {"fused": [lora]} if use == "fuse" else {}
    parts = with_lora(sd_models["sd15"], file, **begun)
    assert_drawn_alike(runs[use], sd_models["sd15"], tmp_path / "out", "last", parts)


def test_a_fused_text_encoder_is_in_the_pipeline_of_a_full_run(sd_models, tmp_path):
    lora = write_diffusers(sd_models["sd15"], tmp_path / "lora", text=True)
    own = [f"model.name={sd_models['sd15']}", f"model.adapter={lora}", "model.adapter_use=fuse"]
    own += ["model.tune=full", "optimizer.learning_rate=1e-5", f"output={tmp_path / 'run'}"]
    run = train(load_recipe("smoke", [*SMALL, *own, "epochs=1"]), progress=False)
    assert read_metrics(run)[0]["reference_kl"] == 0
    pipeline = export(run, tmp_path / "pipeline")
    one, two = (
        generate(target, ["a fox"], seeds=[1], out=tmp_path / name, **SETTINGS)[0].read_bytes()
        for name, target in {"run": run, "exported": pipeline}.items()
    )
    assert one == two


def test_contradictions_and_what_cannot_be_are_refused(config, sd_models, tmp_path):
    for use, override, told in [
        ("continue", "model.lora_rank=8", "model.lora_rank is 8, its own 2 to 3"),
        ("continue", "model.tune=full", "adapter_use 'continue' trains a LoRA on, but tune is"),
        ("continue", "model.adapter=nowhere.safetensors", "^model.adapter: there is no file"),
    ]:
        with pytest.raises(UserError, match=told):
            train(config(use, "refused", override), progress=False)

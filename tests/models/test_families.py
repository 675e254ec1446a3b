"""SDXL, SD 3 and FLUX on tiny random pipelines, beside diffusers' own with the same weights."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from drift.config import load_run_config
from drift.errors import UserError
from drift.evaluation.export import export
from drift.evaluation.generate import generate
from drift.menagerie.captions import MAX_TOKENS
from drift.methods.parts import NoisedPrompt
from drift.models import flux, load_model, stable_diffusion_3, stable_diffusion_xl
from drift.recipes import load_recipe
from drift.training.costs import cost
from drift.training.loop import train
from drift.training.preflight import check_guidance
from drift.training.tracking import read_metrics
from tests.models.families import BUILD, WIDTH

PIPELINES = {
    "sdxl": (StableDiffusionXLPipeline, stable_diffusion_xl.OPTIONAL),
    "sd3": (StableDiffusion3Pipeline, stable_diffusion_3.OPTIONAL),
    "flux": (FluxPipeline, flux.OPTIONAL),
}
JOINT = "to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out"  # flow_grpo's
OWN = {
    "sdxl": [],
    "sd3": [f"model.target_modules={JOINT}", "sampling.eta=0.7"],
    "flux": [f"model.target_modules={JOINT}", "sampling.eta=0.9"],
}
CPS = ["model.flow_form=cps", "model.flow_shift=once"]
SEEDS = (3, 12)


@pytest.fixture(scope="module")
def folders(families):
    return families


@pytest.fixture(scope="module")
def run_of(folders, tmp_path_factory):
    """(family, method, overrides) -> its run, trained once."""
    runs = {}

    def trained(family, method, *overrides):
        key = family, method, overrides
        if key not in runs:
            where = tmp_path_factory.mktemp("runs") / "run"
            small = ["epochs=2", "checkpoint_every=1", "threads=1", "sampling.steps=3"]
            small += [
                "sampling.prompts_per_epoch=2",
                "sampling.pool_size=4",
                "sampling.group_size=2",
            ]
            small += ["optimizer.updates_per_epoch=2", "model.lora_alpha=4", *OWN[family]]
            if "model.tune=full" in overrides:
                small = [field for field in small if "lora" not in field and "target" not in field]
            own = [f"method={method}", f"model.name={folders[family]}", f"output={where}"]
            runs[key] = train(load_recipe("menagerie", [*small, *own, *overrides]), progress=False)
        return runs[key]

    return trained


def plain(folders, family, lora=None, folder=None, **sampler):
    kind, optional = PIPELINES[family]
    pipe = kind.from_pretrained(folder or folders[family], **dict.fromkeys(optional))
    pipe.set_progress_bar_config(disable=True)
    if family == "sdxl":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
        sampler["eta"] = 0.0
    if family == "flux":
        sampler = {"height": 64, "width": 64, "max_sequence_length": MAX_TOKENS} | sampler
    if lora:
        pipe.load_lora_weights(lora)
    if "negative_prompt" in sampler:
        sampler["negative_prompt"] = [sampler["negative_prompt"]] * 2
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    images = pipe(["a fox"] * 2, num_inference_steps=4, generator=generators, **sampler).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


def ours(target, out, **sampler):
    """At noise level 0."""
    *paths, _ = generate(target, ["a fox"], seeds=SEEDS, out=out, steps=4, eta=0.0, **sampler)
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)


@pytest.mark.parametrize("family", BUILD)
@pytest.mark.parametrize(
    "sampler",
    [
        {"guidance_scale": 4.5},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0, "height": 48, "width": 80, "negative_prompt": "a bee"},
    ],
)
def test_without_noise_pictures_are_plain_diffusers(folders, tmp_path, family, sampler):
    drawn = ours(folders[family], tmp_path, **sampler)
    assert np.abs(drawn - plain(folders, family, **sampler)).max() <= 1


@pytest.mark.parametrize(
    ("family", "method", "overrides"),
    [
        ("sdxl", "grpo", []),
        ("sdxl", "drift", []),
        ("sd3", "grpo", []),
        ("sd3", "drift", []),
        ("sd3", "grpo-kl", CPS),
        ("flux", "grpo", []),
        ("flux", "drift", []),
    ],
)
def test_a_run_trains_and_its_lora_is_plain_diffusers(
    folders, run_of, tmp_path, family, method, overrides
):
    run = run_of(family, method, *overrides)
    lines = read_metrics(run)
    assert lines[0]["max_ratio_error"] < 2e-6
    assert lines[0]["clip_fraction"] == 0
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[0]["log_prob_gap"][-1] is None  # to the picture: a step without noise
    assert (lines[-1]["reference_kl"] > 0) == (method == "grpo-kl")
    if not overrides:
        lora = run / "checkpoints/step-000002"
        drawn = ours(run, tmp_path, guidance_scale=4.5)
        assert np.abs(drawn - plain(folders, family, lora, guidance_scale=4.5)).max() <= 1
        assert np.abs(drawn - plain(folders, family, guidance_scale=4.5)).max() > 0


@pytest.mark.parametrize("family", BUILD)
def test_a_resumed_run_is_the_same_to_the_bit(run_of, tmp_path, family):
    whole, parts = run_of(family, "drift"), tmp_path / "parts"
    short = run_of(family, "drift", "epochs=1")
    shutil.copytree(short, parts)
    train(replace(load_run_config(short), output=str(parts), epochs=2), resume=True, progress=False)
    name = "checkpoints/step-000002/pytorch_lora_weights.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("family", BUILD)
def test_features_are_the_middles_in_as_many_numbers_at_any_size(folders, family):
    model = load_model(str(folders[family]))
    told, times = model.encode(["a fox", "a bee"]), model.schedule(3).timesteps[:1].expand(2)
    with torch.no_grad(), model.capture_features() as seen:
        for size in (None, (48, 80)):
            model.predict(torch.randn(2, *model.latent_shape(size)), times, told, 2.0)
    assert [features.shape for features in seen] == [(2, 16 * 32)] * 2


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_prompt_noise_takes_each_encoder_by_itself_and_leaves_padding_alone(folders, family):
    told = load_model(str(folders[family])).encode(["a fox"])
    clean, got = told.prompt.tokens, NoisedPrompt()(told, torch.ones(1), [7], [0])
    noised, words = got.prompt.tokens, slice(MAX_TOKENS)
    for columns in (slice(WIDTH), slice(WIDTH, 2 * WIDTH)):
        here, before = noised[:, words, columns], clean[:, words, columns]
        assert (here - before).abs().max() > 0.1
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(statistic(here), statistic(before), rtol=1e-4, atol=1e-5)
    assert (noised[:, :, 2 * WIDTH :] == 0).all()  # SD 3 pads to T5's width
    assert (noised[:, MAX_TOKENS:] == 0).all()  # and has zeros for T5's tokens
    assert torch.equal(got.negative.tokens, told.negative.tokens)


@pytest.mark.parametrize("family", BUILD)
def test_what_is_cut_off_a_prompt_makes_no_difference(folders, family):
    model, long = load_model(str(folders[family])), "a fox " * 11
    seen = model.see([long + "at night", long + "in a meadow", long])
    assert [each.lost for each in seen] == [2, 3, 0]
    assert len({each.tokens for each in seen}) == 1
    told = model.encode([long + "at night", long]).prompt.tokens
    assert torch.equal(told[0], told[1])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", BUILD)
def test_an_exported_lora_is_one_file_that_plain_diffusers_reads(
    folders, run_of, tmp_path, family, half
):
    run = run_of(family, "drift", "optimizer.learning_rate=0.02")
    file = export(run, tmp_path / "lora.safetensors", half=half)
    with safe_open(file, "pt") as stored:
        names, header = list(stored.keys()), stored.metadata()
    assert all(n.startswith("lora_unet_" if family == "sdxl" else "transformer.") for n in names)
    assert ("ss_network_module" in header) == (family == "sdxl")
    assert "method drift, reward pickscore-tiny, epoch 2" in header["ss_training_comment"]
    sampler = {"guidance_scale": 4.5}
    drawn = ours(run, tmp_path / "drawn", **sampler)
    theirs = plain(folders, family, file, **sampler)
    assert np.abs(drawn - theirs).max() <= (2 if half else 1)
    assert np.abs(drawn - plain(folders, family, **sampler)).max() > 2
    # Read without a header, as ComfyUI does: alpha is the rank, or stands beside.
    state = load_file(file)
    if family != "sdxl":
        assert not any(name.endswith(".alpha") for name in state)
        save_file(state, tmp_path / "bare.safetensors")
        bare = plain(folders, family, tmp_path / "bare.safetensors", **sampler)
        assert np.array_equal(bare, theirs)


@pytest.mark.parametrize("family", BUILD)
def test_a_network_trained_whole_is_exported_as_a_pipeline(folders, run_of, tmp_path, family):
    run = run_of(family, "grpo", "model.tune=full", "optimizer.learning_rate=1e-3", "epochs=1")
    out = export(run, tmp_path / "pipeline")
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in folders[family].iterdir()
    )
    sampler = {"guidance_scale": 4.5}
    drawn = ours(run, tmp_path / "drawn", **sampler)
    assert np.abs(drawn - plain(folders, family, folder=out, **sampler)).max() <= 1
    assert np.abs(drawn - plain(folders, family, **sampler)).max() > 1


def test_flux_takes_more_noise_for_larger_pictures_and_one_pass_for_any_guidance(folders):
    model = load_model(str(folders["flux"]))
    small, large = model.schedule(4), model.schedule(4, (1024, 1024))
    assert (small.fractions[1:] < large.fractions[1:]).all()
    tokens = 1024 * 1024 // 16**2  # 4,096: mu is 1.15
    mu = calculate_shift(tokens)
    shifted = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in (1, 0.75, 0.5, 0.25)]
    assert large.fractions.tolist() == pytest.approx(shifted, rel=1e-5)
    passes, told = [], model.encode(["a fox"])
    model.network.register_forward_hook(lambda *call: passes.append(len(call[-1][0])))
    x, t = torch.randn(1, *model.latent_shape()), small.timesteps[:1]
    guided = [model.predict(x, t, told, scale) for scale in (1.0, 3.5)]
    assert passes == [1, 1]
    assert not torch.equal(*guided)


def test_without_a_negative_prompt_sdxl_is_told_zeros(folders):
    model = load_model(str(folders["sdxl"]))
    told = model.encode(["a fox", "a bee"])
    assert (told.negative.tokens == 0).all()
    assert (told.negative.extra["pooled"] == 0).all()
    assert (model.encode(["a fox"], "a bee").negative.tokens != 0).any()


def test_an_autoencoder_that_overflows_in_half_decodes_in_float32(folders):
    model = load_model(str(folders["sdxl"]), dtype=torch.float16)
    model.decode(torch.randn(1, *model.latent_shape()))
    assert model.pipe.vae.dtype == torch.float32
    assert model.network.dtype == torch.float16


def test_what_does_not_fit_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="height: 40 is no multiple of 16"):
        load_model(str(folders["sd3"])).latent_shape((40, 64))
    for family, told in [
        ("sd3", "predicts its velocity"),
        ("flux", "predicts its velocity"),
        ("sdxl", "says it of itself"),
    ]:
        with pytest.raises(UserError, match=told):
            load_model(str(folders[family]), prediction_type="epsilon")
    other = scheduled(folders["sd3"], tmp_path / "other", DDIMScheduler())
    with pytest.raises(UserError, match="its scheduler is DDIMScheduler"):
        load_model(str(other))


def scheduled(folder, copy, scheduler):
    """A copy of a model's folder with another scheduler."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "scheduler")
    scheduler.save_pretrained(copy / "scheduler")
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"][1] = type(scheduler).__name__
    (copy / "model_index.json").write_text(json.dumps(index))
    return copy


def edited(folder, copy, file, **changes):
    """A copy of a model's folder with other entries in one of its JSON files."""
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps(content))
    return copy


def test_a_pipeline_that_lacks_a_part_which_it_names_is_refused(folders, tmp_path):
    t5 = {"text_encoder_3": ["transformers", "T5EncoderModel"]}
    lacking = edited(folders["sd3"], tmp_path / "lacking", "model_index.json", **t5)
    with pytest.raises(UserError, match=r"^model.name: .* names text_encoder_3, .*\[null, null\]"):
        load_model(str(lacking))


SCHEDULER = "scheduler/scheduler_config.json"


def test_schnell_takes_no_guidance(folders, tmp_path):
    schnell = tmp_path / "schnell"
    shutil.copytree(folders["flux"], schnell)
    settings = FluxTransformer2DModel.load_config(schnell / "transformer")
    torch.manual_seed(0)
    FluxTransformer2DModel.from_config(settings | {"guidance_embeds": False}).save_pretrained(
        schnell / "transformer"
    )
    config = load_recipe("menagerie", [f"model.name={schnell}", f"output={tmp_path / 'run'}"])
    with pytest.raises(UserError, match="^guidance_scale: 2 is refused: .*schnell.*; set it to 1"):
        train(config, progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="^guidance_scale: 4.5 is refused"):
        ours(schnell, tmp_path / "drawn", guidance_scale=4.5)
    drawn = ours(schnell, tmp_path / "one", guidance_scale=1.0)
    theirs = plain(folders, "flux", folder=schnell, guidance_scale=1.0)
    assert np.abs(drawn - theirs).max() <= 1


def test_a_latent_consistency_model_takes_no_guidance(folders, tmp_path):
    lcm = edited(folders["sdxl"], tmp_path / "some", SCHEDULER, _class_name="LCMScheduler")
    index = json.loads((lcm / "model_index.json").read_text())
    index["scheduler"][1] = "LCMScheduler"
    (lcm / "model_index.json").write_text(json.dumps(index))
    model = load_model(str(lcm))
    with pytest.raises(UserError, match="^guidance_scale: 2 is refused: a latent consistency"):
        model.check_guidance(2.0)
    model.check_guidance(1.0)


@pytest.mark.parametrize(
    ("family", "name", "scheduler", "told"),
    [
        ("sdxl", "plain", "", ""),
        ("sdxl", "sdxl-lightning", "", "called lightning: if it was distilled"),
        ("sdxl", "plain", "EulerAncestralDiscreteScheduler", "as a Turbo model's"),
        ("sd3", "plain", "", "without a third text encoder"),
        ("flux", "plain", "", ""),
    ],
)
def test_what_only_seems_wrong_is_told(folders, tmp_path, capsys, family, name, scheduler, told):
    folder = tmp_path / "some" / name
    own = {"timestep_spacing": "trailing", "_class_name": scheduler} if scheduler else {}
    edited(folders[family], folder, SCHEDULER, **own)
    if scheduler:
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"][1] = scheduler
        (folder / "model_index.json").write_text(json.dumps(index))
    config = load_recipe("menagerie", [f"model.name={folder}"])
    check_guidance(load_model(str(folder)), config)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == bool(told)
    assert told in "".join(lines)


def test_a_scheduler_without_a_noise_schedule_is_refused(folders, tmp_path):
    odd = scheduled(folders["sdxl"], tmp_path / "odd", FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UserError, match="^model.name: its scheduler is FlowMatchEuler.*DDIM"):
        load_model(str(odd))


@pytest.mark.parametrize(("family", "passes"), [("sdxl", 2), ("sd3", 2), ("flux", 1)])
def test_a_forecast_counts_the_rows_that_the_network_sees(folders, run_of, family, passes):
    """Every forward pass of an epoch's rollout, and none for guidance that is an input."""
    config = load_run_config(run_of(family, "drift"))
    model = load_model(str(folders[family]))
    rows = []
    model.network.register_forward_hook(lambda *call: rows.append(len(call[-1][0])))
    told, x = model.encode(["a fox"]), torch.randn(1, *model.latent_shape())
    with torch.no_grad():
        times = model.schedule(3).timesteps[:1]
        model.predict(x, times, told, config.sampling.guidance_scale)
    assert sum(rows) == passes
    s, updates = config.sampling, config.images_kept * 3
    assert s.guidance_scale != 1
    forecast = cost(config, 1).network_evaluations
    assert forecast == passes * (config.images_sampled * s.steps + 3 * updates)

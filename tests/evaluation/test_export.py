"""Exported checkpoints, read by plain diffusers alone, are the models they were in the run."""

import json
import os

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from drift.cli import main
from drift.config import TrainConfig, to_yaml
from drift.errors import UserError
from drift.evaluation import export as module
from drift.evaluation.export import describe, export, to_kohya
from drift.evaluation.generate import generate
from drift.methods import METHODS
from drift.models import load_model
from drift.training.checkpoint import save_checkpoint
from drift.training.policy import load_policy, make_trainable
from drift.training.tracking import read_metrics
from tests.evaluation.test_generate import SEEDS, plain_diffusers
from tests.training.test_smoke import smoke

RANK, ALPHA = 4, 6  # not equal, or a forgotten alpha would not show
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
AROUND = ["proj_in", "proj_out"]  # convolutions in SD v1.5, linear in v2.1
# Layout and layers: every kind of layer of the UNet that a LoRA can sit on.
LAYERS = {
    "attention": ("sd15", ATTENTION),
    "attention in v2.1": ("sd21", ATTENTION),
    "the way out of attention alone": ("sd15", ["to_out.0"]),
    "feed-forward": ("sd15", ["ff.net.0.proj", "ff.net.2"]),
    "around the transformers": ("sd15", AROUND),
    "around the transformers in v2.1": ("sd21", AROUND),
    "convolutions": ("sd15", ["conv1", "conv2", "conv_shortcut", "time_emb_proj"]),
    "between the levels": ("sd15", ["downsamplers.0.conv", "upsamplers.0.conv"]),
    "the ends": ("sd15", ["conv_in", "conv_out", "linear_1", "linear_2"]),
}


def make_run(folder, model_folder, **tuned):
    """A run folder with two checkpoints, of weights that are far enough from the base's."""
    settings = {"name": str(model_folder), "lora_rank": RANK, "lora_alpha": ALPHA, **tuned}
    config = TrainConfig(
        prompts="animals",
        method=METHODS["drift"](),
        method_name="drift",
        reward="pickscore-tiny",
        model=settings,
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    model = load_policy(config)
    make_trainable(model, config)
    optimizer = torch.optim.AdamW(model.trainable_parameters())
    generator = torch.Generator().manual_seed(0)
    for epoch in (10, 20):
        for p in model.trainable_parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
        save_checkpoint(folder, epoch, model, optimizer)
    return folder


def header_of(file):
    with safe_open(file, "pt") as stored:
        return stored.metadata()


def plain(folder):
    left_out = {"safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline.from_pretrained(folder, **left_out)


@torch.no_grad()
def assert_same_network(run, model_folder, file, rtol=1e-5, atol=1e-5):
    """The UNet of the run, and plain diffusers' with the exported file; the base is far off."""
    model = load_model(str(model_folder))
    config = module.load_run_config(run)
    make_trainable(model, config)
    model.load_weights(run / "checkpoints/step-000020")
    x = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    inputs = x, torch.tensor([800, 20]), model.encode(["a fox", "a bee"]).prompt.tokens
    pipe = plain(model_folder)
    base = pipe.unet(*inputs).sample
    pipe.load_lora_weights(file)
    ours, theirs = model.network(*inputs).sample, pipe.unet(*inputs).sample
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    assert (ours - base).abs().max() > 100 * atol


@pytest.mark.parametrize(("name", "modules"), LAYERS.values(), ids=LAYERS)
def test_plain_diffusers_reads_the_file_as_the_runs_adapter(sd_models, tmp_path, name, modules):
    run = make_run(tmp_path / "run", sd_models[name], target_modules=modules)
    file = export(run, tmp_path / "out" / "fox.safetensors")
    assert_same_network(run, sd_models[name], file)


def test_names_and_alpha_are_kohyas(sd_models, tmp_path):
    run = make_run(tmp_path / "run", sd_models["sd15"])
    file = export(run, tmp_path / "fox.safetensors")
    weights = load_file(file)
    first = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    middle = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    last = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0"
    assert weights[f"{first}.lora_down.weight"].shape == (RANK, 40)
    assert weights[f"{first}.lora_up.weight"].shape == (40, RANK)
    assert weights[f"{middle}.lora_down.weight"].shape == (RANK, 48)
    assert weights[f"{last}.lora_up.weight"].shape == (40, RANK)
    assert weights[f"{last}.alpha"] == ALPHA
    assert len(weights) == 3 * 128
    for name, tensor in weights.items():
        layer, _, kind = name.partition(".")
        assert layer.startswith("lora_unet_")
        assert kind in {"lora_down.weight", "lora_up.weight", "alpha"}
        assert tensor.dtype == torch.float32
    lora = load_file(run / "checkpoints/step-000020/pytorch_lora_weights.safetensors")
    attention = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_"
    assert torch.equal(weights[f"{first}.lora_down.weight"], lora[f"{attention}A.weight"])
    assert torch.equal(weights[f"{first}.lora_up.weight"], lora[f"{attention}B.weight"])


def test_the_header_says_what_it_is(sd_models, tmp_path):
    run = make_run(tmp_path / "my-run", sd_models["sd15"])
    header = header_of(export(run, tmp_path / "fox.safetensors", checkpoint="10"))
    assert header["ss_network_module"] == "networks.lora"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "6")
    assert header["ss_output_name"] == "my-run"
    assert header["ss_epoch"] == "10"
    told = "DRIFT: method drift, reward pickscore-tiny, epoch 10"
    assert header["ss_training_comment"] == told
    assert "ss_base_model_version" not in header  # 48 wide: no known base


@pytest.mark.parametrize(
    ("width", "version", "v2"), [(768, "sd_v1", "False"), (1024, "sd_v2", "True")]
)
def test_the_base_is_named_where_its_width_tells_it(width, version, v2):
    config = TrainConfig(prompts="animals", method=METHODS["grpo"](), reward="pickscore")
    block = "unet.mid_block.attentions.0.transformer_blocks.0"
    self_attention = {f"{block}.attn1.to_k.lora_A.weight": torch.zeros(8, 1280)}
    cross_attention = {f"{block}.attn2.to_v.lora_A.weight": torch.zeros(8, width)}
    header = describe(self_attention | cross_attention, config, "run", 5)
    assert (header["ss_base_model_version"], header["ss_v2"]) == (version, v2)
    assert "ss_v2" not in describe(self_attention, config, "run", 5)


def test_half_precision_halves_the_file(sd_models, tmp_path):
    run = make_run(tmp_path / "run", sd_models["sd15"])
    whole, half = (
        export(run, tmp_path / f"{h}.safetensors", half=h).stat().st_size for h in (False, True)
    )
    assert half < 0.6 * whole
    file = tmp_path / "True.safetensors"
    assert {t.dtype for n, t in load_file(file).items() if "lora" in n.split(".")[1]} == {
        torch.float16
    }
    assert_same_network(run, sd_models["sd15"], file, rtol=1e-2, atol=1e-3)


def test_a_layer_that_kohyas_form_cannot_name_is_refused():
    layer = "unet.down_blocks.0.odd_name.to_q"
    odd = {f"{layer}.lora_A.weight": torch.ones(2, 4), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    with pytest.raises(UserError, match=r"'down_blocks.0.odd_name.to_q' has no name in kohya's"):
        to_kohya(odd, {layer: 2.0})


@pytest.fixture(scope="module")
def full_run(sd_models, tmp_path_factory):
    """SD v1.5's layout: old names of weights, a sampler that is not ours, no safety checker."""
    folder = tmp_path_factory.mktemp("full") / "run"
    return make_run(folder, sd_models["sd15"], tune="full")


def test_a_full_run_becomes_a_pipeline_of_plain_diffusers(full_run, sd_models, tmp_path):
    out = export(full_run, tmp_path / "pipeline")
    base = sd_models["sd15"]
    pipe = StableDiffusionPipeline.from_pretrained(out)  # nothing need be left out any more
    assert pipe.safety_checker is None
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    trained = UNet2DConditionModel.from_pretrained(full_run / "checkpoints/step-000020")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(pipe.unet.state_dict()[name], tensor)
    # All else is as it was published, to the byte.
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        files = sorted(path.name for path in (base / part).iterdir())
        assert files == sorted(path.name for path in (out / part).iterdir())
        for name in files:
            assert (out / part / name).read_bytes() == (base / part / name).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in base.iterdir())


def test_the_pipeline_draws_what_the_run_draws_and_is_a_model_of_ours(full_run, tmp_path):
    out = export(full_run, tmp_path / "pipeline")
    settings = {"steps": 3, "guidance_scale": 3.0, "eta": 1.0}

    def drawn(target, **changes):
        folder = tmp_path / "drawn"
        paths = generate(target, ["a fox"], seeds=SEEDS, out=folder, **settings, **changes)
        return [np.asarray(Image.open(path)).astype(int) for path in paths[:-1]]

    of_run, of_pipeline = drawn(full_run), drawn(out)
    assert np.array_equal(of_run, of_pipeline)
    assert not np.array_equal(of_run, drawn(full_run, checkpoint="base"))
    theirs = np.stack(plain_diffusers(out, "a fox", **settings))
    assert np.abs(np.stack(of_run) - theirs).max() <= 1
    run = smoke(out, tmp_path / "run", "method=grpo", "epochs=1")
    assert read_metrics(run)[0]["max_ratio_error"] < 1e-6


def test_half_a_pipeline_loads_as_well(full_run, tmp_path):
    out = export(full_run, tmp_path / "half", half=True)
    pipe = StableDiffusionPipeline.from_pretrained(out, dtype=torch.float16)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float16
    for file in out.rglob("*.safetensors"):
        kinds = {t.dtype for t in load_file(file).values()}
        assert kinds <= {torch.float16, torch.int64}  # a text encoder's positions
        assert header_of(file) == {"format": "pt"}
    assert not list(out.rglob("*.half"))


def test_a_safety_checker_that_is_there_is_kept(full_run, sd_models, tmp_path):
    """As in a clone of the whole repository."""
    base = tmp_path / "clone"
    base.mkdir()
    for part in sd_models["sd15"].iterdir():
        (base / part.name).symlink_to(part)
    (base / "safety_checker").mkdir()
    (base / "safety_checker" / "config.json").write_text("{}")
    (base / "v1-5-pruned.ckpt").write_text("not a part")
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(full_run / "checkpoints")
    config = (full_run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(sd_models["sd15"]), str(base)))
    out = export(run, tmp_path / "pipeline")
    index = json.loads((out / "model_index.json").read_text())
    assert index["safety_checker"] == ["stable_diffusion", "StableDiffusionSafetyChecker"]
    assert index["requires_safety_checker"] is True
    assert index["feature_extractor"] == [None, None]
    assert (out / "safety_checker" / "config.json").read_text() == "{}"
    assert not (out / "v1-5-pruned.ckpt").exists()
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_bad_input_is_refused_and_nothing_is_written(full_run, sd_models, tmp_path):
    run, out = make_run(tmp_path / "run", sd_models["sd15"]), tmp_path / "out"
    out.mkdir()
    (out / "taken.safetensors").write_text("precious")
    (out / "taken").mkdir()
    for target, name, changes, told in [
        (run, "taken.safetensors", {}, "out: .* exists already"),
        (full_run, "taken", {}, "out: .* exists already"),
        (run, "folder", {}, "it takes NAME.safetensors"),
        (full_run, "fox.safetensors", {}, "it takes a folder's name"),
        (run, "fox.safetensors", {"checkpoint": "7"}, "has none of epoch 7; it has 10, 20"),
        (run, "fox.safetensors", {"checkpoint": "all"}, "name one that was trained, not 'all'"),
        (run, "fox.safetensors", {"checkpoint": "base"}, "name one that was trained"),
        (sd_models["sd15"], "fox.safetensors", {}, "is not a run folder"),
        (run, "taken.safetensors/fox.safetensors", {}, "out: cannot write"),
    ]:
        with pytest.raises(UserError, match=told):
            export(target, out / name, **changes)
    assert (out / "taken.safetensors").read_text() == "precious"
    assert sorted(path.name for path in out.iterdir()) == ["taken", "taken.safetensors"]


def test_what_fails_halfway_leaves_nothing(full_run, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_halve", full_disk)  # by then the parts have been copied
    with pytest.raises(UserError, match="out: cannot write .*No space left on device"):
        export(full_run, tmp_path / "pipeline", half=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(sd_models, tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "run", sd_models["sd15"])
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run", "--out", "fox.safetensors", "--checkpoint", "10", "--half"]) == 0
    assert capsys.readouterr().out == "wrote fox.safetensors\n"
    assert header_of("fox.safetensors")["ss_epoch"] == "10"
    assert main(["export", str(run), "--out", "fox.safetensors"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert os.listdir(tmp_path).count("fox.safetensors") == 1

"""The flow policy on a tiny random pipeline, beside diffusers' own with the same weights."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from drift.config import load_run_config
from drift.errors import UserError
from drift.evaluation.generate import generate
from drift.menagerie.captions import MAX_TOKENS, build_tokenizer
from drift.methods.parts import NoisedPrompt
from drift.models import load_model
from drift.models.stable_diffusion_3 import OPTIONAL
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.tracking import read_metrics

TARGETS = "to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out"


def text_encoder(tokenizer, seed):
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SD 3's parts without T5: 16x8x8 latents in patches of 2, 64x64 pictures, three blocks."""
    made = tmp_path_factory.mktemp("sd3")
    tokenizer = build_tokenizer(made / "words")
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=40,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=12,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=text_encoder(tokenizer, 1),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(tokenizer, 2),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.save_pretrained(made / "pipe")
    return made / "pipe"


def plain(folder, **sampler):
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **dict.fromkeys(OPTIONAL))
    pipe.set_progress_bar_config(disable=True)
    lora = sampler.pop("lora", None)
    if lora:
        pipe.load_lora_weights(lora)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 12)]
    images = pipe(["a fox"] * 2, num_inference_steps=4, generator=generators, **sampler).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


def ours(target, out, **sampler):
    *paths, _ = generate(target, ["a fox"], seeds=[3, 12], out=out, steps=4, eta=0.0, **sampler)
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)


@pytest.mark.parametrize(
    "sampler",
    [
        {"guidance_scale": 4.5},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0, "height": 48, "width": 80, "negative_prompt": "a bee"},
    ],
)
def test_without_noise_pictures_are_plain_diffusers(folder, tmp_path, sampler):
    theirs = dict(sampler)
    if "negative_prompt" in theirs:
        theirs["negative_prompt"] = ["a bee"] * 2
    assert np.abs(ours(folder, tmp_path, **sampler) - plain(folder, **theirs)).max() <= 1


@pytest.fixture(scope="module")
def run_of(folder, tmp_path_factory):
    runs = {}

    def trained(method, *overrides):
        key = (method, *overrides)
        if key not in runs:
            where = tmp_path_factory.mktemp("runs") / "run"
            small = ["epochs=2", "checkpoint_every=1", "threads=1", "sampling.steps=3"]
            small += ["sampling.prompts_per_epoch=2", "sampling.pool_size=4", "sampling.eta=0.7"]
            small += ["sampling.group_size=2", "optimizer.updates_per_epoch=2"]
            small += [f"model.target_modules={TARGETS}", "model.lora_alpha=4"]
            own = [f"method={method}", f"model.name={folder}", f"output={where}"]
            runs[key] = train(load_recipe("menagerie", [*small, *own, *overrides]), progress=False)
        return runs[key]

    return trained


@pytest.mark.parametrize(
    ("method", "overrides"),
    [("grpo", []), ("drift", []), ("grpo-kl", ["model.flow_form=cps", "model.flow_shift=once"])],
)
def test_a_run_trains_and_its_lora_is_plain_diffusers(folder, run_of, tmp_path, method, overrides):
    run = run_of(method, *overrides)
    lines = read_metrics(run)
    assert lines[0]["max_ratio_error"] < 2e-6
    assert lines[0]["clip_fraction"] == 0
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[0]["log_prob_gap"][-1] is None  # the last step draws no noise
    assert (lines[-1]["reference_kl"] > 0) == (method == "grpo-kl")
    if not overrides:
        lora = run / "checkpoints/step-000002"
        drawn = ours(run, tmp_path, guidance_scale=4.5)
        assert np.abs(drawn - plain(folder, guidance_scale=4.5, lora=lora)).max() <= 1
        assert np.abs(drawn - plain(folder, guidance_scale=4.5)).max() > 0


def test_a_resumed_run_is_the_same_to_the_bit(folder, run_of, tmp_path):
    whole = run_of("drift")
    small = run_of("drift", "epochs=1")
    parts = tmp_path / "parts"
    shutil.copytree(small, parts)
    config = replace(load_run_config(small), output=str(parts), epochs=2)
    train(config, resume=True, progress=False)
    name = "checkpoints/step-000002/pytorch_lora_weights.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_features_are_a_middle_blocks_in_as_many_numbers_at_any_size(folder):
    model = load_model(str(folder))
    told = model.encode(["a fox", "a bee"])
    with torch.no_grad(), model.capture_features() as seen:
        for size in (None, (48, 80)):
            x = torch.randn(2, *model.latent_shape(size))
            model.predict(x, torch.tensor([500.0, 500.0]), told, 2.0)
    assert [features.shape for features in seen] == [(2, 16 * 32)] * 2


def test_what_does_not_fit_is_refused(folder, tmp_path):
    model = load_model(str(folder))
    with pytest.raises(UserError, match="height: 40 is no multiple of 16"):
        model.latent_shape((40, 64))
    with pytest.raises(UserError, match="a flow model predicts its velocity"):
        load_model(str(folder), prediction_type="epsilon")
    shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "scheduler")
    DDIMScheduler().save_pretrained(tmp_path / "other" / "scheduler")
    index = tmp_path / "other" / "model_index.json"
    index.write_text(index.read_text().replace("FlowMatchEulerDiscreteScheduler", "DDIMScheduler"))
    with pytest.raises(UserError, match="its scheduler is DDIMScheduler"):
        load_model(str(tmp_path / "other"))


def test_prompt_noise_takes_each_encoder_by_itself_and_leaves_padding_alone(folder):
    told = load_model(str(folder)).encode(["a fox"])
    clean = told.prompt.tokens  # 16 + 16 numbers of the CLIPs, 8 of padding; T5's zeros below
    assert told.prompt.extra["pooled"].shape == (1, 32)
    got = NoisedPrompt()(told, torch.ones(1), [7], [0])
    noised = got.prompt.tokens
    words = slice(MAX_TOKENS)
    for columns in (slice(0, 16), slice(16, 32)):
        ours, before = noised[:, words, columns], clean[:, words, columns]
        assert (ours - before).abs().max() > 0.1
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(statistic(ours), statistic(before), rtol=1e-4, atol=1e-5)
    assert (noised[:, :, 32:] == 0).all()
    assert (noised[:, MAX_TOKENS:] == 0).all()
    assert torch.equal(got.negative.tokens, told.negative.tokens)

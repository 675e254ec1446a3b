"""Pictures from the command line are those of plain diffusers, and land under safe names."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from drift.config import TrainConfig, to_yaml
from drift.errors import UserError
from drift.evaluation.generate import generate, slugs
from drift.methods import METHODS
from drift.training.checkpoint import save_checkpoint
from drift.training.policy import load_policy

SEEDS = [3, 12]


def make_run(folder, model_folder, epochs=(2,), method="drift"):
    """A run folder with checkpoints whose LoRA has been shaken enough to be seen."""
    config = TrainConfig(
        prompts="animals", method=METHODS[method](), reward="", model={"name": str(model_folder)}
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    model = load_policy(config)
    model.add_adapter(8, 16, config.model.target_modules, seed=0)
    optimizer = torch.optim.AdamW(model.trainable_parameters())
    generator = torch.Generator().manual_seed(0)
    for epoch in epochs:
        for p in model.trainable_parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
        save_checkpoint(folder, epoch, model, optimizer)
    return folder


def plain_diffusers(
    model_folder, prompt, *, steps, lora=None, parts=None, negative_prompt="", **sampler
):
    left_out = {"safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline.from_pretrained(model_folder, **left_out, **(parts or {}))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pipe(
        [prompt] * len(SEEDS),
        num_inference_steps=steps,
        generator=generators,
        negative_prompt=[negative_prompt] * len(SEEDS),
        **sampler,
    ).images


OTHERWISE = {"negative_prompt": "a bee", "height": 48, "width": 96}


@pytest.mark.parametrize(
    "prediction_type, guidance_scale, eta, others",
    [
        ("epsilon", 3.0, 1.0, {}),
        ("v_prediction", 2.0, 0.5, OTHERWISE),
        ("v_prediction", 1.0, 0.0, {}),
    ],
)
def test_a_run_draws_what_plain_diffusers_draws(
    tiny_models, tmp_path, prediction_type, guidance_scale, eta, others
):
    model_folder = tiny_models[prediction_type]
    run = make_run(tmp_path / "run", model_folder)
    settings = {"steps": 4, "guidance_scale": guidance_scale, "eta": eta, **others}
    *paths, sheet = generate(run, ["a fox"], seeds=SEEDS, out=tmp_path / "out", **settings)
    assert [path.name for path in paths] == ["a-fox-3.png", "a-fox-12.png"]
    ours = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)

    lora = run / "checkpoints" / "step-000002"
    theirs = np.stack(plain_diffusers(model_folder, "a fox", lora=lora, **settings)).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    base = np.stack(plain_diffusers(model_folder, "a fox", **settings)).astype(int)
    assert np.abs(ours - base).max() > 5  # the LoRA is really on
    assert Image.open(sheet).height > 64


def test_a_plain_model_and_the_base_of_its_run_draw_the_same(tiny_model, tmp_path):
    run = make_run(tmp_path / "run", tiny_model)
    settings = {"seeds": SEEDS, "steps": 2, "guidance_scale": 2.0}
    plain = generate(tiny_model, ["a cat"], out=tmp_path / "plain", **settings)
    base = generate(run, ["a cat"], out=tmp_path / "base", checkpoint="base", **settings)
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in base]


def test_prompt_noise_at_test_is_the_methods_choice_and_never_the_base_models(tiny_model, tmp_path):
    settings = {"seeds": SEEDS, "steps": 2, "guidance_scale": 2.0}

    def drawn(method, checkpoint):
        run = tmp_path / method
        if not run.exists():
            make_run(run, tiny_model, method=method)
        out = tmp_path / "out" / method / checkpoint
        paths = generate(run, ["a cat"], out=out, checkpoint=checkpoint, **settings)
        return [path.read_bytes() for path in paths]

    clean = drawn("grpo", "last")
    assert drawn("drift", "last") == clean  # its noise is for training only
    assert drawn("drift-noise-test", "last") != clean
    assert drawn("drift-noise-test", "base") == drawn("grpo", "base")


def test_file_names_are_short_safe_and_all_different():
    names = slugs(["a cat", "A cat!", "../../etc/passwd", "<b>狐</b>", "???", "x" * 500])
    assert names == ["a-cat", "a-cat--2", "etc-passwd", "b-狐-b", "prompt", "x" * 40]


def test_bad_input_is_refused_before_the_model_is_loaded(tmp_path):
    for changes, message in [
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "different"),
        ({"seeds": [-1]}, "negative"),
        ({"eta": 1.5}, "eta: 1.5 is refused: at most 1"),
        ({"height": 64}, "set both, or none"),
        ({"steps": 0}, "steps: 0 is refused: at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            generate(tmp_path, ["a cat"], out=tmp_path, **{"seeds": [0]} | changes)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out: cannot write .*file: File exists"):
        generate(tmp_path, ["a cat"], out=tmp_path / "file", seeds=[0])

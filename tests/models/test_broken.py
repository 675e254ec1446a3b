"""A model folder that is broken in any way is told in one line that says where."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.models import load_model
from drift.models.stable_diffusion import load

UNET, CLIP = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def junk(file):
    file.write_bytes(b"junk" * 100)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def change(**fields):
    def edit(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return edit


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("model_index.json", junk, "model_index.json is not valid JSON: Expecting value"),
        ("model_index.json", lambda f: f.write_text("[]"), "names no pipeline class in its"),
        ("model_index.json", change(_class_name="X"), "is a X; known are StableDiffusionPipeline"),
        ("model_index.json", change(unet=["diffusers", "X"]), "`diffusers` has no class `X`$"),
        (UNET, junk, f"cannot read .*/{UNET}: .*header"),
        (UNET, cut, f"cannot read .*/{UNET}: .*incomplete"),
        (UNET, lambda f: f.unlink(), "Error no file named diffusion_pytorch_model"),
        ("unet/config.json", junk, "unet/config.json is not valid JSON"),
        ("vae/config.json", change(latent_channels=3), r"expected shape .* but got \S+( \S+){3}$"),
        (CLIP, cut, f"cannot read .*/{CLIP}: .*incomplete"),
        ("text_encoder/config.json", change(hidden_size=48), "its weights have other shapes than"),
        ("tokenizer", shutil.rmtree, "names tokenizer, but there is no such folder; fetch it"),
        ("tokenizer/tokenizer.json", junk, "tokenizer.json is not valid JSON"),
        ("scheduler/scheduler_config.json", lambda f: f.unlink(), "no file named scheduler_config"),
    ],
)
def test_it_is_one_line_and_the_libraries_say_nothing(
    name, damage, told, tiny_model, tmp_path, capfd
):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    damage(folder / name)
    capfd.readouterr()
    with pytest.raises(UserError, match=f"^model.name: .*{told}") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert capfd.readouterr() == ("", "")


def first_row_only(weights):
    name = min(weights)
    return weights | {name: weights[name][:1].contiguous()}


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (first_row_only, r"1 of another shape: \S+lora_A.weight \[1, \d+\] for \[2, \d+\]"),
        (lambda w: dict(sorted(w.items())[1:]), r"does not fit the run's LoRA; 1 missing: down_"),
        (lambda w: w | {"unet.x": torch.ones(1)}, "1 unexpected: x"),
        (None, "cannot read weights from .*: Error while deserializing header"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(forge, told, tiny_model, tmp_path):
    model = load(tiny_model)
    model.add_adapter(2, 2, ["to_q", "to_k"], seed=0)
    model.save_weights(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    if forge:
        save_file(forge(load_file(file)), file)
    else:
        junk(file)
    with pytest.raises(UserError, match=f"^checkpoint: .*{told}"):
        model.load_weights(tmp_path)

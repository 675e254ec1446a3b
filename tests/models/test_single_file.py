"""Checkpoints in one file, in the original layout: real files, written by the original's names."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from drift.encoders import load_encoder
from drift.errors import UserError
from drift.evaluation.export import export
from drift.evaluation.generate import generate
from drift.files import single_file
from drift.models import load_model
from drift.recipes import load_recipe
from drift.training.fetch import fetch
from drift.training.loop import train
from tests.models.original import WORDS, write_file, write_xl_file
from tests.models.published import PUBLISHED, XL, shrunk, shrunk_xl

# Of "a photo of a cat, isn't it? Ünïcode 漢字 :)" by open_clip's own tokenizer of OpenAI's words
TEXT = "a photo of a cat, isn't it? Ünïcode 漢字 :)"
NUMBERS = [320, 1125, 539, 320, 2368, 267, 2923, 713, 585, 286, 6522, 77, 35689, 3217]
NUMBERS += [162, 120, 95, 35751, 501, 1408]
SMALL = ["threads=1", "epochs=1", "sampling.steps=2", "sampling.prompts_per_epoch=1"]
SMALL += ["sampling.pool_size=2", "sampling.group_size=2", "optimizer.updates_per_epoch=1"]


def small(name):
    layout = shrunk(PUBLISHED[name])
    return layout | {"text_encoder": layout["text_encoder"] | {"vocab_size": WORDS}}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The shipped layouts, shrunk."""
    folder = tmp_path_factory.mktemp("layouts")
    for name in PUBLISHED:
        (folder / f"{name}.json").write_text(json.dumps(small(name)))
    (folder / "sdxl.json").write_text(json.dumps(shrunk_xl(XL)))
    return folder


@pytest.fixture(autouse=True)
def tiny_layouts(monkeypatch, layouts):
    monkeypatch.setattr(single_file, "LAYOUTS", layouts)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """ "sd15", "sd21" -> a file, and the weights in it by part."""
    folder = tmp_path_factory.mktemp("files")
    return {
        name: (
            folder / f"{name}.safetensors",
            write_file(folder / f"{name}.safetensors", small(name)),
        )
        for name in PUBLISHED
    }


@pytest.mark.parametrize(("name", "predicts"), [("sd15", "auto"), ("sd21", "v_prediction")])
def test_every_weight_arrives(files, name, predicts):
    file, written = files[name]
    pipe = load_model(str(file), prediction_type=predicts).pipe
    for part, state in written.items():
        loaded = getattr(pipe, part).state_dict()
        assert loaded.keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(loaded[key], tensor), f"{part}: {key}"
    assert pipe.unet.config.attention_head_dim == PUBLISHED[name]["unet"]["attention_head_dim"]
    told = "v_prediction" if name == "sd21" else "epsilon"
    assert pipe.scheduler.config.prediction_type == told
    assert pipe.tokenizer.pad_token == PUBLISHED[name]["tokenizer"]["pad_token"]


def plain_folder(folder, name):
    """A configuration as `from_single_file` of plain diffusers wants it."""
    for part, config in small(name).items():
        if part in ("unet", "vae", "text_encoder", "scheduler"):
            (folder / part).mkdir(parents=True)
            kind = "scheduler_config" if part == "scheduler" else "config"
            (folder / part / f"{kind}.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(small(name)["index"]))
    return folder


def test_pictures_are_those_of_diffusers_own_loader(files, tmp_path):
    file, _ = files["sd15"]
    paths = generate(file, ["a fox"], seeds=[3], out=tmp_path / "out", steps=3, guidance_scale=2.0)
    theirs = StableDiffusionPipeline.from_single_file(
        file,
        config=str(plain_folder(tmp_path / "config", "sd15")),
        local_files_only=True,
        tokenizer=single_file.load_tokenizer(file),
        safety_checker=None,
        feature_extractor=None,
    )
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    drawn = theirs(
        "a fox",
        num_inference_steps=3,
        guidance_scale=2.0,
        eta=1.0,
        output_type="np",
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    ours = np.asarray(Image.open(paths[0])) / 255
    assert np.abs(ours - drawn).max() < 1.5 / 255


def test_a_file_trains_resumes_and_is_recorded(files, tmp_path):
    file = shutil.copy(files["sd15"][0], tmp_path / "mine.safetensors")
    own = [*SMALL, f"model.name={file}", f"output={tmp_path / 'run'}", "encoder=vae"]
    config = load_recipe("smoke", own)
    run = train(config, progress=False)
    written = json.loads((run / "environment.json").read_text())["weights"]["model"][0]
    assert written["path"] == str(file) and list(written["sha256"]) == ["mine.safetensors"]

    state = load_file(file)
    state["first_stage_model.quant_conv.bias"] += 1
    save_file(state, file)
    more = load_recipe("smoke", [*own, "epochs=2"])
    with pytest.raises(UserError, match="begun with others: model, mine.safetensors"):
        train(more, resume=True, progress=False)


def test_fetch_knows_it_and_missing_ones_are_no_hub_ids(files, tmp_path):
    told = []
    config = load_recipe("smoke", [f"model.name={files['sd15'][0]}"])
    assert fetch(config, dry_run=True, say=told.append) == 0
    assert "model" in told[0] and "here" in told[0] and "MB" in told[0]
    with pytest.raises(UserError, match=r"^model.name: there is no file or folder 'models/no.saf"):
        load_model("models/no.safetensors")


def test_its_autoencoder_is_an_encoder(files):
    file, written = files["sd15"]
    encoder = load_encoder("vae", policy=str(file))
    for key, tensor in encoder.vae.state_dict().items():
        assert torch.equal(tensor, written["vae"][key])


def test_of_two_copies_of_the_unet_the_average_is_read(tmp_path):
    written = write_file(tmp_path / "both.safetensors", small("sd15"), ema=True)
    unet = single_file.load_part(tmp_path / "both.safetensors", "unet").state_dict()
    assert all(torch.equal(unet[key], tensor) for key, tensor in written["unet"].items())


def test_v2_says_what_it_predicts_or_is_asked(files, tmp_path):
    file, _ = files["sd21"]
    with pytest.raises(UserError, match="^model.prediction_type: .*epsilon or v_prediction"):
        load_model(str(file))
    state = load_file(file)
    for said, size, told in [("v", 8, "v_prediction"), ("epsilon", 8, "epsilon")]:
        save_file(state, tmp_path / "told.safetensors", {"modelspec.prediction_type": said})
        pipe = load_model(str(tmp_path / "told.safetensors")).pipe
        assert pipe.scheduler.config.prediction_type == told
        assert pipe.unet.config.sample_size == size
    save_file(state | {"v_pred": torch.zeros(1)}, tmp_path / "told.safetensors")
    assert single_file.prediction_type_of(tmp_path / "told.safetensors") == "v_prediction"
    # What the user says counts, of a file of v1 too.
    pipe = load_model(str(files["sd15"][0]), prediction_type="v_prediction").pipe
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_v2_that_predicts_noise_draws_512_pixels(files, monkeypatch, layouts, tmp_path):
    """2.1-base was trained on 64 x 64 latents, 2.1 on 96 x 96; the weights do not tell."""
    wide = small("sd21") | {"unet": small("sd21")["unet"] | {"sample_size": 96}}
    shutil.copytree(layouts, tmp_path / "layouts")
    (tmp_path / "layouts/sd21.json").write_text(json.dumps(wide))
    monkeypatch.setattr(single_file, "LAYOUTS", tmp_path / "layouts")
    for predicts, size in {"epsilon": 64, "v_prediction": 96}.items():
        pipe = load_model(str(files["sd21"][0]), prediction_type=predicts).pipe
        assert pipe.unet.config.sample_size == size


def changed(state, how):
    if how == "lacks":
        del state["model.diffusion_model.middle_block.1.proj_in.weight"]
    elif how == "nine channels":  # an inpainting model's
        state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(40, 9, 3, 3)
    elif how == "no text":
        state = {k: t for k, t in state.items() if not k.startswith("cond_stage_model")}
    elif how == "refiner":
        state = {k.replace("cond_stage_model", "conditioner"): t for k, t in state.items()}
    elif how == "sd3":
        state = {"model.diffusion_model.joint_blocks.0.x": torch.zeros(2)}
    elif how == "flux":
        state = {"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}
    elif how == "lora":
        state = {"lora_unet_mid_block.lora_up.weight": torch.zeros(2, 2)}
    return state


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("lacks", "does not fit UNet2DConditionModel; 1 missing: mid_block.attentions.0.proj_in"),
        (
            "nine channels",
            r"1 of another shape: conv_in.weight \[40, 9, 3, 3\] for \[40, 4, 3, 3\]",
        ),
        ("no text", "no Stable Diffusion checkpoint with its text encoder"),
        ("refiner", "of Stable Diffusion XL, but not of the base model"),
        ("sd3", "of Stable Diffusion 3, without its text encoders; name its diffusers folder or"),
        ("flux", "of FLUX, without its text encoders; name its diffusers folder or hub id"),
        ("lora", "a LoRA; name it in model.adapter"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(files, tmp_path, how, told):
    file = tmp_path / "odd.safetensors"
    save_file(changed(load_file(files["sd15"][0]), how), file)
    with pytest.raises(UserError, match=f"^model.name: .*{told}") as error:
        load_model(str(file))
    assert "\n" not in str(error.value)


def test_pickles_and_rubbish_are_not_read(tmp_path):
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "odd.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"^model.name: .*\.ckpt is a pickle, which is not read"):
        load_model(str(tmp_path / "old.ckpt"))
    with pytest.raises(UserError, match="^model.name: cannot read .*odd.safetensors: "):
        load_model(str(tmp_path / "odd.safetensors"))


def test_the_words_are_clips(files):
    for name in PUBLISHED:
        tokenizer = single_file.load_tokenizer(files[name][0])
        row = tokenizer([TEXT, ""], padding="max_length", truncation=True).input_ids
        pad = 49407 if name == "sd15" else 0
        assert row[0] == [49406, *NUMBERS, 49407] + [pad] * (75 - len(NUMBERS))
        assert row[1] == [49406, 49407] + [pad] * 75
    assert os.path.getsize(single_file.MERGES) == 524_619  # as OpenAI's merges.txt on the hub


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    file = tmp_path_factory.mktemp("xl") / "xl.safetensors"
    return file, write_xl_file(file, shrunk_xl(XL))


def test_of_sdxl_every_weight_arrives_and_it_draws_as_diffusers_own_loader(xl, tmp_path):
    file, written = xl
    pipe = load_model(str(file)).pipe
    for part, state in written.items():
        loaded = getattr(pipe, part).state_dict()
        assert loaded.keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(loaded[key], tensor), f"{part}: {key}"
    assert [pipe.tokenizer.pad_token, pipe.tokenizer_2.pad_token] == ["<|endoftext|>", "!"]
    assert pipe.config.force_zeros_for_empty_prompt
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        kind = "scheduler_config" if part == "scheduler" else "config"
        (tmp_path / "config" / part).mkdir(parents=True)
        told = json.dumps(shrunk_xl(XL)[part])
        (tmp_path / "config" / part / f"{kind}.json").write_text(told)
    (tmp_path / "config/model_index.json").write_text(json.dumps(XL["index"]))
    theirs = StableDiffusionXLPipeline.from_single_file(
        file,
        config=str(tmp_path / "config"),
        local_files_only=True,
        tokenizer=single_file.load_tokenizer(file),
        tokenizer_2=single_file.load_tokenizer(file, "tokenizer_2"),
        add_watermarker=False,
    )
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    settings = {"guidance_scale": 4.0}
    drawn = theirs(
        "a fox",
        num_inference_steps=3,
        eta=1.0,
        output_type="np",
        generator=torch.Generator().manual_seed(3),
        **settings,
    ).images[0]
    paths = generate(file, ["a fox"], seeds=[3], out=tmp_path / "out", steps=3, eta=1.0, **settings)
    assert np.abs(np.asarray(Image.open(paths[0])) / 255 - drawn).max() < 1.5 / 255


def test_a_file_of_sdxl_trains_and_is_exported(xl, tmp_path):
    file, _ = xl
    own = [*SMALL, f"model.name={file}", f"output={tmp_path / 'run'}", "encoder=vae"]
    run = train(load_recipe("smoke", own), progress=False)
    lora = export(run, tmp_path / "lora.safetensors")
    with safe_open(lora, "pt") as stored:
        assert all(name.startswith("lora_unet_") for name in stored.keys())  # noqa: SIM118
    with pytest.raises(UserError, match=r"^model.prediction_type: .* leave it out"):
        load_model(str(file), prediction_type="epsilon")

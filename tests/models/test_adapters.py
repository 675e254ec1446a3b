"""A LoRA to begin with, from every form it is published in, against plain diffusers and peft."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file

from drift.config import ModelConfig
from drift.errors import UserError
from drift.models import load_model
from drift.models.adapters import read_adapter
from tests.models.loras import ALPHA, LEFT_OUT, RANK, write_diffusers, write_kohya, write_peft

# Some layers of another rank, as LoRAs often have
UNEVEN = {"rank_pattern": {"attn2.to_k": 2}}


@pytest.fixture(scope="module")
def model(sd_models):
    return sd_models["sd15"]


@pytest.fixture(scope="module")
def loras(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    old = write_diffusers(model, folder / "old")  # of a diffusers that wrote no header
    file = old / "pytorch_lora_weights.safetensors"
    save_file(load_file(file), file)
    return {
        "diffusers": write_diffusers(model, folder / "diffusers"),
        "diffusers, old": old,
        "diffusers, uneven": write_diffusers(model, folder / "uneven", **UNEVEN),
        "diffusers, with text": write_diffusers(model, folder / "text", text=True),
        "kohya": write_kohya(model, folder / "kohya.safetensors"),
        "kohya, uneven": write_kohya(model, folder / "uneven.safetensors", **UNEVEN),
        "kohya, with text": write_kohya(model, folder / "text.safetensors", text=True),
        "peft": write_peft(model, folder / "peft"),
        "peft, rooted": write_peft(model, folder / "rooted", use_rslora=True),
    }


def plain(model, lora):
    """The pipeline of plain diffusers with the LoRA on it; of plain peft, if it is peft's."""
    pipe = StableDiffusionPipeline.from_pretrained(model, **LEFT_OUT)
    if lora.is_dir() and (lora / "adapter_config.json").is_file():
        pipe.unet = PeftModel.from_pretrained(pipe.unet, lora).eval()
    else:
        pipe.load_lora_weights(lora)
    return pipe


@torch.no_grad()
def outputs(pipe):
    """What the text encoder and the UNet make of the same input."""
    ids = torch.arange(2 * 77).view(2, 77) % 500
    embeds = pipe.text_encoder(ids).last_hidden_state
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return embeds, pipe.unet(x, torch.tensor([800, 20]), embeds, return_dict=False)[0]


FORMS = ["diffusers", "diffusers, old", "diffusers, uneven", "kohya", "kohya, uneven"]
FORMS += ["peft", "peft, rooted"]


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_continued_one_begins_where_diffusers_would(model, loras, form):
    ours = load_model(str(model), adapter=str(loras[form]))
    assert not ours.trainable_parameters()
    theirs, base = outputs(plain(model, loras[form])), outputs(load_model(str(model)).pipe)
    torch.testing.assert_close(outputs(ours.pipe)[1], theirs[1], rtol=1e-5, atol=1e-5)
    assert (theirs[1] - base[1]).abs().max() > 1e-2
    ours.train_adapter()
    assert len(ours.trainable_parameters()) == 2 * 128


@pytest.mark.parametrize("form", [*FORMS, "diffusers, with text", "kohya, with text"])
@torch.no_grad()
def test_a_fused_one_is_part_of_the_base(model, loras, form):
    ours = load_model(str(model), adapter=str(loras[form]), adapter_use="fuse")
    theirs = plain(model, loras[form])
    if "peft" in form:
        theirs.unet = theirs.unet.merge_and_unload()
    else:
        theirs.fuse_lora(components=["unet", "text_encoder"])
        theirs.unload_lora_weights()
    for part in ("unet", "text_encoder"):
        wanted, state = (getattr(p, part).state_dict() for p in (theirs, ours.pipe))
        assert wanted.keys() == state.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-6)
    base = outputs(load_model(str(model)).pipe)
    moved = [
        (one - two).abs().max() > 1e-3 for one, two in zip(outputs(ours.pipe), base, strict=True)
    ]
    assert moved == ["with text" in form, True]


@torch.no_grad()
def test_the_reference_of_a_continued_one_is_its_start(model, loras):
    ours = load_model(str(model), adapter=str(loras["kohya"]))
    began = outputs(ours.pipe)[1]
    ours.train_adapter()
    trained = ours.trainable_parameters()
    for parameter in trained:
        parameter += 0.1
    now = outputs(ours.pipe)[1]
    with ours.reference():
        assert torch.equal(outputs(ours.pipe)[1], began)
    assert torch.equal(outputs(ours.pipe)[1], now) and not torch.equal(now, began)
    assert [id(p) for p in ours.trainable_parameters()] == [id(p) for p in trained]


@torch.no_grad()
def test_the_reference_over_a_fused_one_is_the_fused_base(model, loras):
    settings = {"adapter": str(loras["kohya"]), "adapter_use": "fuse"}
    for dtype, tune in [("float32", "lora"), ("bfloat16", "full")]:
        ours = load_model(str(model), dtype=getattr(torch, dtype), **settings)
        began = load_model(str(model), **settings).pipe.unet
        if tune == "full":
            ours.unfreeze()
            for name, parameter in ours.pipe.unet.named_parameters():  # not rounded on the way
                assert torch.equal(parameter, began.get_parameter(name))
        else:
            ours.add_adapter(2, 4, ("to_q",), seed=0)
        for parameter in ours.trainable_parameters():
            parameter += 0.1
        with ours.reference():
            weight = ours.pipe.unet.conv_out.weight
            assert torch.equal(weight.float(), began.conv_out.weight.to(weight.dtype).float())


def test_what_is_saved_is_the_adapter_that_was_continued(model, loras, tmp_path):
    ours = load_model(str(model), adapter=str(loras["kohya, uneven"]))
    with ours.reference():  # its copy is not saved
        pass
    ours.train_adapter()
    ours.save_weights(tmp_path)
    one, two = plain(model, loras["kohya, uneven"]), plain(model, tmp_path)
    torch.testing.assert_close(outputs(one), outputs(two), rtol=0, atol=0)
    again = load_model(str(model), adapter=str(tmp_path))
    torch.testing.assert_close(outputs(again.pipe), outputs(ours.pipe), rtol=0, atol=0)


def test_in_half_precision_it_stays_as_it_was_written(model, loras):
    file = loras["diffusers"] / "pytorch_lora_weights.safetensors"
    ours = load_model(str(model), adapter=str(loras["diffusers"]), dtype=torch.bfloat16)
    ours.train_adapter()
    assert {p.dtype for p in ours.trainable_parameters()} == {torch.float32}
    written = sorted((t.sum().item(), t.shape) for t in load_file(file).values())
    assert sorted((p.sum().item(), p.shape) for p in ours.trainable_parameters()) == written


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((RANK, ALPHA, None), ""),
        ((None, None, ("to_q", "to_k", "to_v", "to_out.0")), ""),
        ((8, None, None), f"model.lora_rank is 8, its own {RANK};"),
        ((None, 16, None), f"model.lora_alpha is 16, its own {ALPHA};"),
        ((None, None, ("to_q", "to_v")), r"model.target_modules is to_q, to_v \(64 layers\), its"),
        ((8, 16, ("to_q",)), "model.lora_rank .*; model.lora_alpha .*; model.target_modules "),
    ],
)
def test_settings_that_contradict_it_are_refused_naming_both(model, loras, settings, told):
    ours = load_model(str(model), adapter=str(loras["peft"]))
    if not told:
        ours.train_adapter(*settings)
        return
    with pytest.raises(UserError, match=f"^model.adapter .*{told}.*adapter_use=fuse$"):
        ours.train_adapter(*settings)


def test_a_config_leaves_rank_and_alpha_to_a_continued_one():
    config = ModelConfig(adapter="x")
    assert config.lora_rank is config.lora_alpha is config.target_modules is None
    fused = ModelConfig(adapter="x", adapter_use="fuse")
    assert (fused.lora_rank, fused.lora_alpha, len(fused.target_modules)) == (8, 16, 4)
    with pytest.raises(ValueError, match="adapter_use 'continue' .* tune is 'full'"):
        ModelConfig(adapter="x", tune="full")


@pytest.mark.parametrize("form", ["diffusers, with text", "kohya, with text"])
def test_weights_of_a_text_encoder_are_not_continued(model, loras, form):
    with pytest.raises(UserError, match="^model.adapter: .*text encoder.*adapter_use=fuse"):
        load_model(str(model), adapter=str(loras[form]))


def spoilt(state, how):
    first = next(name for name in state if "lora_A" in name)
    if how == "other layers":
        return {k.replace("mid_block", "middle"): t for k, t in state.items()}
    if how == "wider":
        return state | {first: torch.zeros(RANK, 41)}
    if how == "one half":
        return {k: t for k, t in state.items() if k != first.replace("lora_A", "lora_B")}
    if how == "not finite":
        return state | {first: state[first] * float("nan")}
    if how == "DoRA":
        return state | {first.replace("lora_A.weight", "lora_magnitude_vector"): torch.zeros(40)}
    return {k.replace("unet.", "transformer."): t for k, t in state.items()}


@pytest.mark.parametrize("use", ["continue", "fuse"])
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("other layers", r"does not fit UNet2DConditionModel; 16 that fit no layer: middle\."),
        ("wider", r"1 of another shape: .*to_k.lora_A.weight \[3, 41\] for a layer \[40, 40\]"),
        ("one half", "1 without their other half: down_blocks"),
        ("not finite", "1 not finite: unet.down_blocks"),
        ("DoRA", "1 that are of no LoRA: .*lora_magnitude_vector"),
        ("another model's", "256 of other networks: transformer."),
    ],
)
def test_what_fits_nothing_is_named_in_one_error(model, loras, tmp_path, how, told, use):
    state = load_file(loras["diffusers"] / "pytorch_lora_weights.safetensors")
    save_file(spoilt(state, how), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=f"^model.adapter: .*mine.safetensors .*{told}") as error:
        load_model(str(model), adapter=str(tmp_path / "mine.safetensors"), adapter_use=use)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused_in_one_line(model, loras, tmp_path):
    shutil.copytree(loras["peft"], tmp_path / "peft")
    (tmp_path / "peft/adapter_config.json").unlink()
    write = {"lora_unet_odd_name.lora_down.weight": torch.ones(1, 2)}
    write["lora_unet_odd_name.lora_up.weight"] = torch.ones(2, 1)
    save_file(write, tmp_path / "odd.safetensors")
    (tmp_path / "several").mkdir()
    for name in ("one.safetensors", "two.safetensors"):
        save_file(write, tmp_path / "several" / name)
    (tmp_path / "some.bin").write_bytes(b"\x80\x02}q\x00.")
    for name, told in {
        "peft": "needs the adapter_config.json of a LoRA beside it",
        "odd.safetensors": "2 that fit no layer: odd",
        "several": "must hold one .safetensors file of a LoRA, not one.safetensors, two",
        "some.bin": "must hold one .safetensors file of a LoRA, not some.bin",
        "absent": "there is no file or folder",
    }.items():
        with pytest.raises(UserError, match=f"^model.adapter: .*{told}") as error:
            load_model(str(model), adapter=str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_pefts_settings_come_along(model, loras):
    metadata = read_adapter(loras["peft"], load_model(str(model)).pipe).metadata
    config = json.loads((loras["peft"] / "adapter_config.json").read_text())
    assert metadata["unet.lora_alpha"] == config["lora_alpha"] == ALPHA
    assert metadata["unet.lora_dropout"] == 0.1

"""A LoRA to begin with of SDXL, SD 3 and FLUX, against plain diffusers and peft."""

import copy

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.models import load_model
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.tracking import read_metrics
from tests.models.loras import ALPHA, ATTENTION, RANK, WORDS, named, shake
from tests.models.test_families import OWN, PIPELINES, ours
from tests.models.test_families import plain as drawn_plainly

TEXTS = {"sdxl": 2, "sd3": 2, "flux": 1}  # encoders that a LoRA may change
# Where the tiny SDXL's attention is in the original's numbered blocks, as kohya's scripts call it
SGM = {
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
}


def pipeline(folder, family):
    kind, optional = PIPELINES[family]
    return kind.from_pretrained(folder, **dict.fromkeys(optional))


def shaken(folder, family, texts=0):
    """The plain pipeline with a LoRA on its network, and on so many of its text encoders."""
    pipe = pipeline(folder, family)
    network = pipe.unet if family == "sdxl" else pipe.transformer
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION))
    shake(network)
    encoders = [getattr(pipe, f"text_encoder{end}") for end in ("", "_2")[:texts]]
    for encoder in encoders:
        encoder.add_adapter(copy.deepcopy(WORDS))
        shake(encoder)
    return pipe, network, encoders


def write_diffusers(folder, family, out, texts=0):
    pipe, network, encoders = shaken(folder, family, texts)
    part, own = ("unet" if family == "sdxl" else "transformer"), {}
    config = network.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    for end, encoder in zip(("", "_2"), encoders, strict=False):
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(encoder))
        own[f"text_encoder{end}_lora_layers"] = state
        told = encoder.peft_config["default"].to_dict()
        own[f"text_encoder{end}_lora_adapter_metadata"] = told
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
    layers[f"{part}_lora_adapter_metadata"] = config
    pipe.save_lora_weights(out, **layers, **own)
    return out


def write_peft(folder, family, out):
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ATTENTION}
    network = get_peft_model(pipeline(folder, family).transformer, LoraConfig(**settings))
    shake(network)
    network.save_pretrained(out)
    return out


def write_kohya_sdxl(folder, out, texts=0):
    """As sd-scripts do, which name the UNet by the original's blocks."""
    _, network, encoders = shaken(folder, "sdxl", texts)
    state = {}
    for name, tensor in named(network, "lora_unet_", ALPHA).items():
        for ours_, theirs in SGM.items():
            name = name.replace(f"lora_unet_{ours_}_", f"lora_unet_{theirs}_")
        state[name] = tensor
    for k, encoder in enumerate(encoders, 1):
        own = named(encoder, "lora_te_", 4)
        state |= {name.replace("lora_te_", f"lora_te{k}_"): t for name, t in own.items()}
    save_file(state, out, {"ss_network_module": "networks.lora"})
    return out


def write_kohya_flux(folder, out):
    """Of the picture's attention, whose three projections are one matrix there."""
    width, generator, state = 32, torch.Generator().manual_seed(5), {}
    for k in range(2):
        for layer, wide in (("img_attn_qkv", 3 * width), ("img_attn_proj", width)):
            name = f"lora_unet_double_blocks_{k}_{layer}"
            down = 0.1 * torch.randn(RANK, width, generator=generator)
            up = 0.1 * torch.randn(wide, RANK, generator=generator)
            state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            state[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    save_file(state, out)
    return out


@pytest.fixture(scope="module")
def loras(families, tmp_path_factory):
    out = tmp_path_factory.mktemp("loras")
    made = {}
    for family, folder in families.items():
        made[family, "diffusers"] = write_diffusers(folder, family, out / f"{family}-plain")
        texts = TEXTS[family]
        made[family, "text"] = write_diffusers(folder, family, out / f"{family}-text", texts)
    made["sd3", "peft"] = write_peft(families["sd3"], "sd3", out / "peft")
    made["sdxl", "kohya"] = write_kohya_sdxl(families["sdxl"], out / "xl.safetensors")
    made["sdxl", "kohya, text"] = write_kohya_sdxl(families["sdxl"], out / "xlt.safetensors", 2)
    made["flux", "kohya"] = write_kohya_flux(families["flux"], out / "flux.safetensors")
    return made


def predicted(model):
    """What the texts become, pooled too, and what the network makes of the same input."""
    told = model.encode(["a fox", "a bee"])
    x = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    times = model.schedule(3).timesteps[:1].expand(2)
    with torch.no_grad():
        made = model.predict(x, times, told, 1.0)
    return told.prompt.tokens, told.prompt.extra["pooled"], made


def plainly(folder, lora):
    """The same, where plain diffusers, or plain peft, has put the LoRA on."""
    model = load_model(str(folder))
    if (lora / "adapter_config.json").is_file():
        model.pipe.transformer = PeftModel.from_pretrained(model.network, lora).merge_and_unload()
    else:
        model.pipe.load_lora_weights(lora)
    return predicted(model)


CONTINUED = [("sdxl", "diffusers"), ("sdxl", "kohya"), ("sd3", "diffusers"), ("sd3", "peft")]
CONTINUED += [("flux", "diffusers"), ("flux", "kohya")]


@pytest.mark.parametrize(("family", "form"), CONTINUED)
def test_a_continued_one_begins_where_diffusers_would_and_is_saved(
    families, loras, tmp_path, family, form
):
    folder, lora = families[family], loras[family, form]
    model = load_model(str(folder), adapter=str(lora))
    theirs, base = plainly(folder, lora), predicted(load_model(str(folder)))
    torch.testing.assert_close(predicted(model), theirs, rtol=1e-5, atol=1e-5)
    assert (theirs[-1] - base[-1]).abs().max() > 1e-2
    began = predicted(model)
    model.train_adapter()
    for parameter in model.trainable_parameters():
        parameter.data += 0.1
    now = predicted(model)
    assert not torch.equal(now[-1], began[-1])
    with model.reference():
        assert torch.equal(predicted(model)[-1], began[-1])
    model.save_weights(tmp_path)
    torch.testing.assert_close(plainly(folder, tmp_path), now, rtol=1e-5, atol=1e-5)


FUSED = [("sdxl", "text"), ("sdxl", "kohya, text"), ("sd3", "text"), ("sd3", "peft")]
FUSED += [("flux", "text"), ("flux", "kohya")]


@pytest.mark.parametrize(("family", "form"), FUSED)
def test_a_fused_one_is_part_of_the_base_text_encoders_too(families, loras, family, form):
    folder, lora = families[family], loras[family, form]
    model = load_model(str(folder), adapter=str(lora), adapter_use="fuse")
    ours_, theirs, base = (
        predicted(model),
        plainly(folder, lora),
        predicted(load_model(str(folder))),
    )
    torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-4)
    moved = [(one - two).abs().max() > 1e-3 for one, two in zip(ours_, base, strict=True)]
    # FLUX's tokens are the T5's, which no LoRA changes; its CLIP gives the pooled ones.
    text = "text" in form
    assert moved == [text and family != "flux", text, True]
    assert not any(".lora_" in name for name, _ in model.network.named_parameters())
    model.add_adapter(2, 4, ("to_q",), seed=0)
    with model.reference():
        assert torch.equal(predicted(model)[-1], ours_[-1])


@pytest.mark.parametrize("family", TEXTS)
def test_a_fused_one_in_half_precision_is_rounded_once(families, loras, family):
    settings = {"adapter": str(loras[family, "text"]), "adapter_use": "fuse"}
    half = load_model(str(families[family]), dtype=torch.float16, **settings)
    whole = load_model(str(families[family]), **settings)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(half.network.state_dict()[name], tensor.half())
    if family == "flux":  # what overflows in a T5
        layer = half.pipe.text_encoder_2.encoder.block[0].layer[-1].DenseReluDense.wo
        assert layer.weight.dtype == torch.float32


def test_weights_of_text_encoders_are_not_continued(families, loras):
    for family in TEXTS:
        with pytest.raises(UserError, match="^model.adapter: .*text encoder.*adapter_use=fuse"):
            load_model(str(families[family]), adapter=str(loras[family, "text"]))


def test_what_fits_nothing_is_named_in_one_line(families, loras, tmp_path):
    state = load_file(loras["sd3", "diffusers"] / "pytorch_lora_weights.safetensors")
    renamed = {k.replace("blocks.1.", "blocks.9."): t for k, t in state.items()}
    save_file(renamed, tmp_path / "layers.safetensors")
    first = next(name for name in state if "lora_A" in name)
    save_file(state | {first: torch.zeros(RANK, 5)}, tmp_path / "wide.safetensors")
    t5 = {f"text_encoder_2.{k}": t.clone() for k, t in state.items()}
    save_file(state | t5, tmp_path / "t5.safetensors")
    for family, file, told in [
        ("sd3", tmp_path / "layers.safetensors", "8 that fit no layer: transformer_blocks.9"),
        ("sd3", tmp_path / "wide.safetensors", r"1 of another shape: .* \[3, 5\] for a layer"),
        ("sd3", loras["sdxl", "kohya"], "kohya's form, which diffusers does not read for a Stable"),
        ("sdxl", loras["sd3", "diffusers"], "does not fit StableDiffusionXLPipeline; .*other netw"),
        ("sd3", loras["sdxl", "diffusers"], "does not fit StableDiffusion3Pipeline; .*other netwo"),
        ("flux", loras["sd3", "diffusers"], "does not fit FluxTransformer2DModel; "),
        ("flux", tmp_path / "t5.safetensors", "does not fit FluxPipeline; .* of other networks"),
    ]:
        with pytest.raises(UserError, match=f"^model.adapter: .*{told}") as error:
            load_model(str(families[family]), adapter=str(file))
        assert "\n" not in str(error.value), told


SMALL = ["method=grpo-kl", "epochs=1", "threads=1", "sampling.steps=3", "encoder=vae"]
SMALL += ["reward=jpeg-compressibility", "sampling.prompts_per_epoch=1", "sampling.pool_size=2"]
SMALL += ["sampling.group_size=2", "optimizer.updates_per_epoch=1"]


@pytest.mark.parametrize(
    ("family", "form", "use"),
    [
        ("sdxl", "kohya", "continue"),
        ("flux", "diffusers", "continue"),
        ("sd3", "diffusers", "fuse"),
    ],
)
def test_a_run_begins_at_the_lora(families, loras, tmp_path, family, form, use):
    lora, run = loras[family, form], tmp_path / "run"
    own = [f"model.name={families[family]}", f"model.adapter={lora}", f"output={run}"]
    own += [f"model.adapter_use={use}"]
    own += [field for field in OWN[family] if "eta" in field or use == "fuse"]
    train(load_recipe("menagerie", [*SMALL, *own]), progress=False)
    line = read_metrics(run)[0]
    assert line["max_ratio_error"] < 5e-6 and line["reference_kl"] == 0
    sampler = {"guidance_scale": 4.5}
    drawn = ours(run, tmp_path / "base", checkpoint="base", **sampler)
    assert np.abs(drawn - drawn_plainly(families, family, lora, **sampler)).max() <= 1
    if use == "continue":
        last = run / "checkpoints/step-000001"
        drawn = ours(run, tmp_path / "last", **sampler)
        assert np.abs(drawn - drawn_plainly(families, family, last, **sampler)).max() <= 1

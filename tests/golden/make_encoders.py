"""Write the golden files of the encoders, with the reference packages; run by hand.

    PARITY/bin/python tests/golden/make_encoders.py

Small random checkpoints in the published layouts, and what the reference makes of `pictures()`.
Weights are rounded to float16 before the reference sees them. The references resize 8-bit pictures
with PIL; here torchvision resizes the float pictures (bicubic, antialiased, then clamped), so that
features can be compared to 2e-6. How near that is to PIL, tests/test_pixels.py says.
`layouts.json` holds names and shapes of full-size reference models, made on the meta device.

Wants torch, torchvision, timm, open_clip, dreamsim, transformers and peft: not DRIFT's environment.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# A torchvision without its compiled operators imports once these are defined.
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor a, Tensor b, float c)->Tensor")
library.define("qnms(Tensor a, Tensor b, float c)->Tensor")

import dreamsim.feature_extraction.extractor as extractor  # noqa: E402
import open_clip  # noqa: E402
from dreamsim import PerceptualModel, dreamsim  # noqa: E402
from dreamsim.config import dreamsim_args  # noqa: E402
from dreamsim.feature_extraction import vision_transformer  # noqa: E402
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # noqa: E402
from pictures import pictures  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from torchvision import transforms as T  # noqa: E402
from transformers import (  # noqa: E402
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

BICUBIC = T.InterpolationMode.BICUBIC
CLIP_COLOURS = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
IMAGENET_COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SINGLES = ("dino_vitb16", "clip_vitb32", "open_clip_vitb32")


def randomise(module: nn.Module) -> nn.Module:
    """Every parameter random and exact in float16, so that none can be left out unnoticed."""
    for name, parameter in module.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") and parameter.ndim == 1 else 0.0
        parameter.data = (centre + 0.2 * torch.randn_like(parameter)).half().float()
    return module.eval()


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in state.items()}


def prepared(images: Tensor, size, crop: int, colours) -> Tensor:
    """torchvision's own transforms, on floats; `size` is a side or a pair of sides."""
    resized = T.Resize(size, BICUBIC)(images).clamp(0, 1)
    return T.Normalize(*colours)(T.CenterCrop(crop)(resized))


@torch.no_grad()
def write_expected(folder: Path, encode, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: encode(images).contiguous() for name, images in pictures().items()}


# --- DreamSim ---


def tiny_vit(patch_size: int) -> nn.Module:
    """DreamSim's own ViT, 16 or 8 wide; the package reads its 12th block."""
    return vision_transformer.VisionTransformer(
        patch_size=patch_size,
        embed_dim=256 // patch_size,
        depth=12,
        num_heads=2,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def patch_dreamsim(folder: Path) -> None:
    """Let the package build tiny ViTs, and take DINO from `folder` instead of torch.hub."""
    for name in ("load_clip_as_dino", "load_open_clip_as_dino"):
        sys.modules[f"dreamsim.feature_extraction.{name}"].vit_base = tiny_vit

    def hub(repository: str, name: str) -> nn.Module:
        model = tiny_vit(16)
        model.load_state_dict(torch.load(folder / "dino_vitbase16_pretrain.pth"))
        return model

    torch.hub.load = hub


def write_backbones(folder: Path) -> None:
    torch.save(half(randomise(tiny_vit(16)).state_dict()), folder / "dino_vitbase16_pretrain.pth")
    for name, patch_size in [("clip_vitb16", 16), ("open_clip_vitb16", 16)] + [
        (single, 32) for single in SINGLES[1:]
    ]:
        vit = tiny_vit(patch_size)
        vit.pos_drop = nn.LayerNorm(vit.embed_dim)
        state = half(randomise(vit).state_dict())
        state["proj"] = (
            torch.randn(vit.embed_dim, 512).half().float()
        )  # the package does not cast it
        torch.save({"state_dict": state}, folder / f"{name}_pretrain.pth.tar")
    head = {f"module.head.mlp.{layer}.{kind}": torch.zeros(1)  # read and not used: not kept
            for layer in (0, 2, 4) for kind in ("weight", "bias")}  # fmt: skip
    head["module.head.last_layer.weight"] = torch.zeros(1)
    torch.save({"student": head}, folder / "dino_vitb16_pretrain.pth")


def write_lora(folder: Path, kind: str, tag: str) -> None:
    """A random LoRA, made and saved as the package's training does."""
    arguments = dreamsim_args["model_config"][kind]
    model = PerceptualModel(**arguments, device="cpu", load_dir=str(folder), normalize_embeds=True)
    config = LoraConfig(r=4, lora_alpha=2, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    lora = folder / f"{tag}_lora"
    model.save_pretrained(lora)
    (lora / "README.md").unlink(missing_ok=True)
    file = lora / "adapter_model.safetensors"
    save_file(half(load_file(file)), file)


def write_dreamsim(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_backbones(folder)
    patch_dreamsim(folder)
    expected = {}
    for kind in ("ensemble", *SINGLES):
        tag = kind if kind == "ensemble" else f"{kind}_single"
        write_lora(folder, kind, tag)
        model, _ = dreamsim(device="cpu", cache_dir=str(folder), dreamsim_type=kind)

        def encode(images: Tensor, model=model) -> Tensor:
            return model.embed(T.Resize((224, 224), BICUBIC)(images).clamp(0, 1))

        expected |= write_expected(folder, encode, f"{tag}/")
    save_file(expected, folder / "expected.safetensors")
    (folder / "dino_vitb16_pretrain.pth").unlink()


# --- CLIP ---


def write_open_clip(folder: Path, quick_gelu: bool) -> None:
    folder.mkdir(parents=True)
    vision = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}
    model = randomise(open_clip.model.CLIP(**config))
    colours = IMAGENET_COLOURS if quick_gelu else CLIP_COLOURS
    told = {"model_cfg": config, "preprocess_cfg": {"mean": colours[0], "std": colours[1]}}
    (folder / "open_clip_config.json").write_text(json.dumps(told, indent=1) + "\n")
    if quick_gelu:  # the older form of the file
        torch.save(half(model.state_dict()), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(half(model.state_dict()), folder / "open_clip_model.safetensors")
    steps = open_clip.image_transform(32, False, *colours).transforms

    def encode(images: Tensor) -> Tensor:
        pixels = steps[-1](steps[1](steps[0](images).clamp(0, 1)))
        return model.encode_image(pixels, normalize=True)

    save_file(write_expected(folder, encode), folder / "expected.safetensors")


def write_transformers(folder: Path, model: nn.Module, encode) -> None:
    folder.mkdir(parents=True)
    randomise(model)
    expected = write_expected(folder, partial(encode, model))
    model.half().save_pretrained(folder)
    save_file(expected, folder / "expected.safetensors")


def write_clip(folder: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = {**tower, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        vision_config={**vision, "hidden_act": "quick_gelu"},
        text_config={
            **tower,
            "num_attention_heads": 2,
            "vocab_size": 16,
            "max_position_embeddings": 8,
        },
        projection_dim=12,
    )

    def encode(model, images: Tensor) -> Tensor:
        features = model.get_image_features(prepared(images, 32, 32, CLIP_COLOURS))
        return normalize(getattr(features, "pooler_output", features), dim=1)

    write_transformers(folder, CLIPModel(config), encode)


# --- DINO ---


def write_dinos(folder: Path) -> None:
    def encode(model, images: Tensor) -> Tensor:
        output = model(prepared(images, 256, 224, IMAGENET_COLOURS))
        token = output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]
        return normalize(token, dim=1)

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit = ViTConfig(**sizes, intermediate_size=64, image_size=224, patch_size=16)
    write_transformers(folder / "dino-vit", ViTModel(vit, add_pooling_layer=False), encode)
    v2 = Dinov2Config(**sizes, image_size=518, patch_size=14)  # its positions are interpolated
    write_transformers(folder / "dinov2", Dinov2Model(v2), encode)

    (folder / "dino").mkdir()
    theirs = vision_transformer.VisionTransformer(
        patch_size=16,
        embed_dim=64,
        depth=1,
        num_heads=1,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    torch.save(half(randomise(theirs).state_dict()), folder / "dino" / "dino.pth")
    expected = write_expected(folder, partial(encode, theirs))
    save_file(expected, folder / "dino" / "expected.safetensors")


# --- names and shapes at full size ---


def full_size(patch_size: int, clip: bool) -> nn.Module:
    with torch.device("meta"):
        vit = vision_transformer.vit_base(patch_size=patch_size)
        if clip:
            vit.pos_drop = nn.LayerNorm(768)
            vit.register_buffer("proj", torch.empty(768, 512))
    return vit


def full_size_lora() -> dict[str, Tensor]:
    """The ensemble's LoRA (r = 16), as peft names it."""
    extractor.ViTExtractor.create_model = staticmethod(
        lambda name, folder: (full_size(16, "clip" in name), SimpleNamespace())
    )
    with torch.device("meta"):
        arguments = dreamsim_args["model_config"]["ensemble"]
        model = PerceptualModel(**arguments, device="meta", normalize_embeds=True)
        config = LoraConfig(r=16, lora_alpha=8, bias="none", target_modules=["qkv"])
        return get_peft_model_state_dict(get_peft_model(model, config))


def write_layouts(file: Path) -> None:
    linspace = torch.linspace  # the ViT asks for its items, which the meta device lacks
    torch.linspace = lambda *a, **k: linspace(*a, **{**k, "device": "cpu"})
    layouts = {
        "dino_vitbase16_pretrain.pth": full_size(16, False).state_dict(),
        "clip_vitb16_pretrain.pth.tar": full_size(16, True).state_dict(),
        "clip_vitb32_pretrain.pth.tar": full_size(32, True).state_dict(),
        "ensemble_lora": full_size_lora(),
    }
    for name in ("ViT-B-32", "ViT-H-14"):
        with torch.device("meta"):
            config = open_clip.get_model_config(name)
            state = open_clip.model.CLIP(**config).state_dict()
        layouts[name] = {k: v for k, v in state.items() if k.startswith("visual.")}
    shapes = {
        layout: {name: list(tensor.shape) for name, tensor in state.items()}
        for layout, state in layouts.items()
    }
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in shapes.items())
    file.write_text(f"{{\n{lines}\n}}\n")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = HERE / "encoders"
    shutil.rmtree(folder, ignore_errors=True)
    write_open_clip(folder / "open_clip", quick_gelu=False)
    write_open_clip(folder / "open_clip-quick", quick_gelu=True)
    write_clip(folder / "clip")
    write_dinos(folder)
    write_dreamsim(folder / "dreamsim")
    write_layouts(folder / "layouts.json")


if __name__ == "__main__":
    main()

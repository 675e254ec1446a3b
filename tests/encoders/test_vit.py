"""Our ViT against transformers' ViT and CLIP towers, on random weights."""

import re

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

from drift.encoders.vit import VisionTransformer, quick_gelu

THEIRS = {
    "image_size": 24,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
OURS = {"image_size": 24, "patch_size": 8, "width": 16, "depth": 2, "heads": 4}
NAMES = (  # transformers' -> timm's
    (r"embeddings\.(cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.position_embeddings?(\.weight)?", "pos_embed"),
    (r"embeddings\.patch_embedding(s\.projection)?", "patch_embed.proj"),
    (r"(encoder\.)?layers", "blocks"),
    (r"layernorm_before|layer_norm1", "norm1"),
    (r"layernorm_after|layer_norm2", "norm2"),
    (r"attention|self_attn", "attn"),
    (r"attn\.(o|out)_proj", "attn.proj"),
    (r"pre_layrnorm", "norm_pre"),
    (r"(post_)?layernorm", "norm"),
)


def timm_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {"patch_embed.proj.bias": torch.zeros(16)}  # CLIP has none
    for name, tensor in theirs.items():
        for old, new in NAMES:
            name = re.sub(old, new, name)
        ours[name] = tensor
    for stem in ("blocks.0.attn", "blocks.1.attn"):
        for kind in ("weight", "bias"):
            parts = [ours.pop(f"{stem}.{part}_proj.{kind}") for part in "qkv"]
            ours[f"{stem}.qkv.{kind}"] = torch.cat(parts)
    ours["cls_token"] = ours["cls_token"].view(1, 1, 16)
    ours["pos_embed"] = ours["pos_embed"].view(1, 10, 16)
    return ours


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return module.eval()


@torch.no_grad()
def test_plain_is_the_vit_of_transformers():
    theirs = shaken(ViTModel(ViTConfig(**THEIRS, layer_norm_eps=1e-6), add_pooling_layer=False))
    ours = VisionTransformer(**OURS, eps=1e-6)
    ours.load_state_dict(timm_names(theirs.state_dict()))
    images = torch.randn(2, 3, 24, 24)
    expected = theirs(pixel_values=images).last_hidden_state
    torch.testing.assert_close(ours.norm(ours.tokens(images)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(images), expected[:, 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pre_norm_and_quick_gelu_are_the_clip_of_transformers():
    theirs = shaken(CLIPVisionModel(CLIPVisionConfig(**THEIRS, hidden_act="quick_gelu")))
    ours = VisionTransformer(**OURS, eps=1e-5, activation="quick_gelu", pre_norm=True)
    ours.load_state_dict(timm_names(theirs.state_dict()))
    images = torch.randn(2, 3, 24, 24)
    expected = theirs(pixel_values=images).pooler_output
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


def test_quick_gelu_by_hand():
    got = quick_gelu(torch.tensor([0.0, 1.0, -1.0]))  # sigmoid(1.702) = 0.845796
    torch.testing.assert_close(got, torch.tensor([0.0, 0.845796, -0.154204]))

"""HPSv2 and v2.1: the cosine of an open_clip model fine-tuned on people's preferences.

Wu et al., "Human Preference Score v2", 2023. Reads open_clip's state dict as published and runs it
as a transformers CLIPModel, so that open_clip is not needed. Scores of the published ViT-H/14 lie
roughly between 0.2 and 0.35: no logit scale. Those of the two versions are not comparable. The
preprocessing is not CLIP's: the *longest* side is resized, and the rest padded; on float tensors,
with values that may overshoot [0, 1], as the hpsv2 package does it (under today's torchvision;
before 0.17 it did not smooth when shrinking).
"""

import html
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from drift.errors import UserError
from drift.files.hub import Weights
from drift.files.weights import fit_weights, read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD, normalise, resize
from drift.rewards.clip_score import (
    ClipScore,
    load_tokenizer,
    require,
)

WEIGHTS = Weights("xswu/HPSv2", ("HPS_v2_compressed.pt",), "2.0 GB", "Apache-2.0")
WEIGHTS_V21 = Weights("xswu/HPSv2", ("HPS_v2.1_compressed.pt",), "2.0 GB", "Apache-2.0")

PUBLISHED = (*WEIGHTS.files, *WEIGHTS_V21.files)
OPEN_CLIP_FILE = "open_clip_model.safetensors"  # open_clip's own name for a model of any kind
HEAD_WIDTH = {1280: 80, 1408: 88, 1664: 104}  # vision of ViT-H, -g, -bigG; 64 everywhere else

# open_clip -> transformers, by the beginning of the name ...
STEMS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "transformer.resblocks": "text_model.encoder.layers",
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
# ... and within a layer; `attn.in_proj_*` is q, k and v in one.
PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TRANSPOSED = ("visual.proj", "text_projection")


def _rename(name: str, table: dict[str, str]) -> str:
    """Replace the beginning of `name` (whole dotted words) as the table says."""
    for old, new in table.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def _split(name: str) -> tuple[str, str, str]:
    """ "stem.7.rest" as ("stem", "7", "rest"); without a layer's number ("stem", "", "")."""
    stem, number, rest = [*re.split(r"\.(\d+)\.", name, maxsplit=1), "", ""][:3]
    return stem, number, rest


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip state dict under the names of a transformers CLIPModel."""
    converted = {}
    for name, tensor in state.items():
        stem, number, rest = _split(name)
        if not number:
            converted[_rename(name, STEMS)] = tensor.T if name in TRANSPOSED else tensor
            continue
        layer = f"{_rename(stem, STEMS)}.{number}"
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                converted[f"{layer}.self_attn.{letter}_proj.{kind}"] = part
        else:
            converted[f"{layer}.{_rename(rest, PARTS)}"] = tensor
    return converted


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_transformers`."""
    stems = {new: old for old, new in STEMS.items()}
    parts = {new: old for old, new in PARTS.items()}
    converted = {}
    for name, tensor in state.items():
        stem, number, rest = _split(name)
        if not number:
            old = _rename(name, stems)
            converted[old] = tensor.T if old in TRANSPOSED else tensor
            continue
        layer = f"{_rename(stem, stems)}.{number}"
        if rest.startswith("self_attn.q_proj"):
            qkv = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            converted[f"{layer}.attn.in_proj_{rest.rpartition('.')[2]}"] = torch.cat(qkv)
        elif not rest.startswith(("self_attn.k_proj", "self_attn.v_proj")):
            converted[f"{layer}.{_rename(rest, parts)}"] = tensor
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def infer_config(state: dict[str, Tensor], end_token: int):
    """The transformers CLIPConfig that an open_clip state dict fits, read off its shapes."""
    from transformers import CLIPConfig

    def tower(prefix: str, width: int, heads: int) -> dict:
        blocks = f"{prefix}transformer.resblocks."
        layers = {n.removeprefix(blocks).split(".")[0] for n in state if n.startswith(blocks)}
        return {
            "hidden_size": width,
            "intermediate_size": len(state[f"{blocks}0.mlp.c_fc.weight"]),
            "num_hidden_layers": len(layers),
            "num_attention_heads": heads,
            "hidden_act": "gelu",
        }

    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
    vocabulary, text_width = state["token_embedding.weight"].shape
    vision = tower("visual.", width, width // HEAD_WIDTH.get(width, 64))
    text = tower("", text_width, text_width // 64)
    return CLIPConfig(
        vision_config=vision | {"patch_size": patch, "image_size": patch * grid},
        text_config=text
        | {
            "vocab_size": vocabulary,
            "max_position_embeddings": len(state["positional_embedding"]),
            "eos_token_id": end_token,
            "bos_token_id": end_token - 1,
            "pad_token_id": end_token,
        },
        projection_dim=state["text_projection"].shape[1],
    )


def clean(prompt: str) -> str:
    """What open_clip does to a text before its tokenizer does the rest."""
    prompt = html.unescape(html.unescape(prompt))
    return prompt.translate(str.maketrans("“”‘’", "\"\"''")).strip()


def preprocess(images: Tensor, size: int) -> Tensor:
    """Longest side to `size`, pad with black, normalise: "N 3 H W" -> "N 3 size size"."""
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    height, width = round(height * scale), round(width * scale)
    down, right = size - height, size - width
    margins = (right // 2, right - right // 2, down // 2, down - down // 2)
    return normalise(
        F.pad(resize(images, height, width, clamp=False), margins), CLIP_MEAN, CLIP_STD
    )


def find_weights(path: Path, published: str) -> Path:
    """The checkpoint at `path`: that file, or of a folder `published`, else its only other one.

    The published file of the other version is never taken: its numbers mean something else.
    """
    if path.is_file():
        return path
    for name in (published, OPEN_CLIP_FILE):
        if (path / name).exists():
            return path / name
    files = [f for f in sorted(path.iterdir()) if f.suffix in (".pt", ".safetensors")]
    others = [f for f in files if f.name not in PUBLISHED]
    if len(others) != 1:
        held = ", ".join(f.name for f in files) or "no .pt or .safetensors file"
        raise UserError(f"reward: {path} lacks {published}; it holds {held}")
    return others[0]


def read_state(file: Path) -> dict[str, Tensor]:
    """The open_clip state dict in a .pt (possibly under "state_dict") or .safetensors file."""
    state = read_weights(file, field="reward")
    state = state.get("state_dict", state)
    needed = {
        "visual.conv1.weight": 4,
        "visual.positional_embedding": 2,
        "visual.transformer.resblocks.0.mlp.c_fc.weight": 2,
        "positional_embedding": 2,
        "token_embedding.weight": 2,
        "transformer.resblocks.0.mlp.c_fc.weight": 2,
        "text_projection": 2,
    }
    require(state, needed, source=file, kind="open_clip checkpoint")
    return state


def load(path: Path, device: str = "cpu", *, published: str = WEIGHTS.files[0]) -> ClipScore:
    """The reward in an open_clip checkpoint, a file or a folder; the tokenizer lies beside it."""
    from transformers import CLIPModel

    file = find_weights(path, published)
    state = read_state(file)
    tokenizer = load_tokenizer(file.parent)
    model = CLIPModel(infer_config(state, tokenizer.eos_token_id))
    fit_weights(model, to_transformers(state), source=file, field="reward")
    model = model.to(device).eval().requires_grad_(False)
    size = model.config.vision_config.image_size
    return ClipScore(model, tokenizer, lambda images: preprocess(images, size), clean)


def load_v21(path: Path, device: str = "cpu") -> ClipScore:
    """`load`, which of a folder with both versions takes 2.1."""
    return load(path, device, published=WEIGHTS_V21.files[0])

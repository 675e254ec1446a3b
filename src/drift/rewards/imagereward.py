"""ImageReward: a text encoder that looks at the picture, and a head that grades what it saw.

Xu et al., "ImageReward", 2023: BLIP's ViT-L/16 and BERT with cross-attention, fine-tuned on
people's rankings. The head's number is standardised with the published constants, so that the
published model's scores have mean 0 and spread 1 over its training data: roughly -2 to 2. Pictures
are prepared as by the package (torchvision's resize and centre crop), here on float tensors.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from drift.encoders.vit import VisionTransformer
from drift.errors import UserError
from drift.files.hub import Fallback, Weights
from drift.files.weights import fit_weights, read_json, read_weights
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise
from drift.rewards.clip_score import (
    check_pairs,
    find_tokenizer,
    require,
)
from drift.rewards.head import Head, infer_widths

WEIGHTS = Weights(
    "zai-org/ImageReward", ("ImageReward.pt", "med_config.json"), "1.8 GB", "Apache-2.0"
)
TOKENIZER = Fallback(
    Weights(
        "google-bert/bert-base-uncased",
        ("tokenizer*.json", "vocab.txt"),
        "about 1 MB",
        "Apache-2.0",
    ),
    unless=("tokenizer.json", "vocab.txt"),
)

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's numbers, as published
MAX_TOKENS = 35
HEAD_WIDTH = 64  # of BLIP's vision transformers, base and large
# Left over from BLIP's pre-training, and the numbers 0 to L - 1.
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
# The fields of med_config.json that shape the text encoder.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)


class ImageReward(nn.Module):
    """A Reward. The parts bear the names of the published state dict."""

    def __init__(
        self, vision: VisionTransformer, text: nn.Module, head: Head, tokenizer: Callable, size: int
    ):
        super().__init__()
        self.blip = nn.ModuleDict({"visual_encoder": vision, "text_encoder": text})
        self.mlp = head
        self.tokenizer, self.size, self.batch_size = tokenizer, size, 64

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        check_pairs(images, prompts)
        scores = [images.new_zeros(0, dtype=torch.float32)]
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores.append(self.score(images[part], prompts[part]).to(images.device))
        return torch.cat(scores)

    def score(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, "N"]:
        """Grade one batch: every prompt's class token after it has seen its image."""
        device = next(self.parameters()).device
        vision: Any = self.blip["visual_encoder"]
        seen = vision.norm(vision.tokens(self.preprocess(images.to(device, torch.float32))))
        tokens = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(device)
        read = self.blip["text_encoder"](
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
        )
        return (self.mlp(read.last_hidden_state[:, 0]) - MEAN) / STD

    def preprocess(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Shortest side to the model's size, centre crop, normalise."""
        return normalise(crop(images, self.size), CLIP_MEAN, CLIP_STD)


def infer_vision(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of the `VisionTransformer` that the state dict fits, read off its shapes."""
    stem = "blip.visual_encoder."
    tokens, width = state[f"{stem}pos_embed"].shape[1:]
    patch = state[f"{stem}patch_embed.proj.weight"].shape[-1]
    blocks = {n.split(".")[3] for n in state if n.startswith(f"{stem}blocks.")}
    return {
        "image_size": patch * math.isqrt(tokens - 1),
        "patch_size": patch,
        "width": width,
        "depth": len(blocks),
        "heads": width // HEAD_WIDTH,
    }


def build(state: dict[str, Any], config: dict, tokenizer: Callable, source: Path) -> ImageReward:
    """The model of `state`'s shapes and of `config`, med_config.json, without the weights."""
    from transformers import BlipTextConfig, BlipTextModel

    stem, kind = "blip.visual_encoder.", "ImageReward checkpoint"
    needed = {f"{stem}pos_embed": 3, f"{stem}patch_embed.proj.weight": 4}
    require(state, needed, source=source, kind=kind)
    widths = infer_widths(state, prefix="mlp.", source=source, kind=kind)
    shape = infer_vision(state)
    # A decoder only in having cross-attention: it is called as an encoder, without a causal mask.
    sizes = {name: config[name] for name in SIZES}
    text = BlipTextConfig(
        **sizes, encoder_hidden_size=shape["width"], is_decoder=True, bos_token_id=None
    )
    return ImageReward(
        VisionTransformer(**shape, eps=1e-6),
        BlipTextModel(text, add_pooling_layer=False),
        Head(widths),
        tokenizer,
        shape["image_size"],
    )


def load_tokenizer(folder: Path):
    """The BertTokenizer in `folder`, else BERT's own (uncased) from the hub."""
    from transformers import BertTokenizer

    return find_tokenizer(BertTokenizer, folder, TOKENIZER)


def load(path: Path, device: str = "cpu") -> ImageReward:
    """The reward in ImageReward.pt, or in a folder with it; med_config.json lies beside it."""
    file = path if path.is_file() else path / WEIGHTS.files[0]
    config_file = file.parent / WEIGHTS.files[1]
    config = read_json(config_file, field="reward")
    missing = [name for name in SIZES if name not in config]
    if missing:
        raise UserError(f"reward: {config_file} is missing, or it lacks {', '.join(missing[:5])}")
    state = read_weights(file, field="reward")
    state = {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}
    model = build(state, config, load_tokenizer(file.parent), file)
    fit_weights(model, state, source=file, field="reward")
    return model.to(device).eval().requires_grad_(False)

"""CLIP score: 100 · max(cosine, 0) of an image and its prompt, under any transformers CLIPModel.

Hessel et al., "CLIPScore", 2021, Eq. 1, with the scale of torchmetrics and of most tables since,
100; the paper's own is w = 2.5, and its prefix "A photo depicts" is not put before the prompt. The
published ViT-L/14 gives pictures that fit their prompts roughly 20 to 35. Preprocessing is
transformers': shortest side, centre crop, on float tensors.
"""

from pathlib import Path

from drift.files.hub import Weights
from drift.rewards.clip_score import (
    CLIP_FILES,
    ClipScore,
    load_clip,
    load_tokenizer,
    transformers_preprocess,
)

WEIGHTS = Weights("openai/clip-vit-large-patch14", CLIP_FILES, "1.7 GB", "MIT")


def load(path: Path, device: str = "cpu") -> ClipScore:
    """The reward in a CLIPModel folder: config, safetensors, tokenizer, preprocessor."""
    model = load_clip(path, device)
    preprocess = transformers_preprocess(model, path)
    return ClipScore(model, load_tokenizer(path), preprocess, scale=100.0, minimum=0.0)

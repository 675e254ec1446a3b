"""PickScore: exp(logit_scale) times the cosine of a CLIP fine-tuned on people's picks.

Kirstain et al., "Pick-a-Pic", 2023. Serves any transformers CLIPModel folder; scores of the
published ViT-H/14 lie roughly between 15 and 26. Preprocessing is transformers', on float tensors.
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

WEIGHTS = Weights("yuvalkirstain/PickScore_v1", CLIP_FILES, "3.9 GB", "MIT")


def load(path: Path, device: str = "cpu") -> ClipScore:
    """The reward in a CLIPModel folder: config, safetensors, tokenizer, preprocessor."""
    model = load_clip(path, device)
    scale = float(model.logit_scale.exp())
    preprocess = transformers_preprocess(model, path)
    return ClipScore(model, load_tokenizer(path), preprocess, scale=scale)

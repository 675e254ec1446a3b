"""PickScore: exp(logit_scale) times the cosine of a CLIP fine-tuned on people's picks.

Kirstain et al., "Pick-a-Pic", 2023. Serves any transformers CLIPModel folder; scores of the
published ViT-H/14 lie roughly between 15 and 26. Resizing works on float tensors: at most one grey
level off PIL's.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from drift.errors import UserError
from drift.hub import Weights
from drift.rewards.clip_score import (
    CLIP_MEAN,
    CLIP_STD,
    ClipScore,
    load_tokenizer,
    normalise,
    read_json,
    resize,
)

WEIGHTS = Weights(
    "yuvalkirstain/PickScore_v1", ("*.json", "*.txt", "model.safetensors"), "3.9 GB", "MIT"
)


def preprocess(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shortest side to `size`, centre crop, normalise: "N 3 H W" in [0, 1] -> "N 3 size size"."""
    height, width = images.shape[-2:]
    shortest = min(height, width)
    height, width = int(size * height / shortest), int(size * width / shortest)
    images = resize(images, height, width).clamp(0, 1)
    top, left = (height - size) // 2, (width - size) // 2
    return normalise(images[..., top : top + size, left : left + size], mean, std)


def load(path: Path, device: str = "cpu") -> ClipScore:
    """The reward in a CLIPModel folder: config, safetensors, tokenizer, preprocessor."""
    from transformers import CLIPModel

    if read_json(path / "config.json").get("model_type") != "clip":
        raise UserError(f"reward: {path} is not a CLIP model folder (config.json of type 'clip')")
    try:
        model, report = CLIPModel.from_pretrained(
            path, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(f"reward: cannot load {path}: {str(error).splitlines()[0]}") from error
    if report["missing_keys"]:
        raise UserError(f"reward: the weights in {path} lack '{min(report['missing_keys'])}'")
    model = model.to(device).eval().requires_grad_(False)
    settings = read_json(path / "preprocessor_config.json")
    mean, std = settings.get("image_mean", CLIP_MEAN), settings.get("image_std", CLIP_STD)
    size = model.config.vision_config.image_size
    return ClipScore(
        model,
        load_tokenizer(path),
        lambda images: preprocess(images, size, mean, std),
        scale=float(model.logit_scale.exp()),
    )

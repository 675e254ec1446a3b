"""What rewards of CLIP's shape share: loading, pictures, batched cosines, remembered texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.files.foreign import reason
from drift.files.hub import Fallback, Weights, locate
from drift.files.pretrained import load_pretrained
from drift.files.weights import read_json
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise

CLIP_FILES = ("*.json", "*.txt", "model.safetensors")  # of a CLIPModel's repository
CLIP_TOKENIZER = Fallback(  # the same in every published CLIP
    Weights(
        "openai/clip-vit-large-patch14",
        ("tokenizer*.json", "vocab.json", "merges.txt"),
        "about 4 MB",
        "MIT",
    ),
    unless=("tokenizer.json", "vocab.json"),
)


@dataclass
class ClipScore:
    """A Reward: `scale` times the cosine between an image and its prompt."""

    model: Any  # a transformers CLIPModel in eval mode
    tokenizer: Callable
    preprocess: Callable[[Tensor], Tensor]  # images in [0, 1] -> "N 3 S S", normalised
    clean: Callable[[str], str] = str
    scale: float = 1.0
    minimum: float = -math.inf
    batch_size: int = 64
    text_features: dict[str, Tensor] = field(default_factory=dict)  # by prompt; fine-tuning has few

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        check_pairs(images, prompts)
        if not len(images):
            return images.new_zeros(0, dtype=torch.float32)
        features = image_features(self.model, self.preprocess, images, self.batch_size)
        cosine = (features * self._encode_prompts(prompts)).sum(-1)
        return (self.scale * cosine).clamp(min=self.minimum).to(images.device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Features of each prompt, kept. A new one is encoded by itself: in a batch, the company it
        is first seen in would round it, which in a resumed run or another process is another.
        """
        device = next(self.model.parameters()).device
        for prompt in dict.fromkeys(prompts):
            if prompt in self.text_features:
                continue
            tokens = self.tokenizer(
                [self.clean(prompt)],
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            output = self.model.get_text_features(input_ids=tokens.input_ids.to(device))
            self.text_features[prompt] = F.normalize(projected(output), dim=-1)[0]
        return torch.stack([self.text_features[prompt] for prompt in prompts])


def check_pairs(images: Tensor, prompts: Sequence[str]) -> None:
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images cannot be paired with {len(prompts)} prompts")


def image_features(
    model: Any,
    preprocess: Callable[[Tensor], Tensor],
    images: Float[Tensor, "N 3 H W"],
    batch_size: int,
) -> Float[Tensor, "N D"]:
    """Projected features of length 1, on the model's device; at least one image."""
    device = next(model.parameters()).device
    parts = images.to(device, torch.float32).split(batch_size)
    features = [projected(model.get_image_features(preprocess(part))) for part in parts]
    return F.normalize(torch.cat(features), dim=-1)


def projected(output) -> Tensor:
    """The projected feature, whichever form this version of transformers returns it in."""
    return output if isinstance(output, Tensor) else output.pooler_output


def load_clip(folder: Path, device: str):
    """The transformers CLIPModel in `folder`, whole or in shards; frozen, in float32."""
    from transformers import CLIPModel

    if read_json(folder / "config.json", field="reward").get("model_type") != "clip":
        raise UserError(f"reward: {folder} is not a CLIP model folder (config.json of type 'clip')")
    model = load_pretrained(CLIPModel, folder, "reward", whole=True)
    return model.to(device).eval().requires_grad_(False)


def transformers_preprocess(model: Any, folder: Path) -> Callable[[Tensor], Tensor]:
    """What transformers' CLIPProcessor does to the images of the CLIPModel in `folder`."""
    settings = read_json(folder / "preprocessor_config.json", field="reward")
    mean, std = settings.get("image_mean", CLIP_MEAN), settings.get("image_std", CLIP_STD)
    size = model.config.vision_config.image_size
    return lambda images: normalise(crop(images, size, half=math.floor), mean, std)


def load_tokenizer(folder: Path):
    """The CLIPTokenizer in `folder`, else the one all published CLIPs share, from the hub."""
    from transformers import CLIPTokenizer

    return find_tokenizer(CLIPTokenizer, folder, CLIP_TOKENIZER)


def find_tokenizer(kind: Any, folder: Path, fallback: Fallback) -> Any:
    """The tokenizer of class `kind` in `folder`, if it has one, else the `fallback`."""
    here = fallback.beside(folder) is not None
    source = folder if here else locate(fallback.weights, field="reward")
    try:
        return kind.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise UserError(
            f"reward: cannot read a tokenizer from {source}: {reason(error)}"
        ) from error


def require(state: dict[str, Any], axes: dict[str, int], *, source: Path, kind: str) -> None:
    """Refuse a file without the tensors (name: axes) that a model's sizes are read from."""
    missing = [name for name, n in axes.items() if getattr(state.get(name), "ndim", None) != n]
    if missing:
        shown = ", ".join(sorted(map(str, state))[:5]) or "nothing"
        raise UserError(
            f"reward: {source} is no {kind}: it lacks {', '.join(missing[:5])}; it holds {shown}"
        )

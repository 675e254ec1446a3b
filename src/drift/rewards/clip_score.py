"""What rewards of CLIP's shape share: batched cosines, remembered text features, configuration."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"  # the same in every published CLIP
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def projected(output) -> Tensor:
    """The projected feature, whichever form this version of transformers returns it in."""
    return output if isinstance(output, Tensor) else output.pooler_output


@dataclass
class ClipScore:
    """A Reward: `scale` times the cosine between an image and its prompt."""

    model: Any  # a transformers CLIPModel in eval mode
    tokenizer: Callable
    preprocess: Callable[[Tensor], Tensor]  # images in [0, 1] -> "N 3 S S", normalised
    clean: Callable[[str], str] = str
    scale: float = 1.0
    batch_size: int = 64
    text_features: dict[str, Tensor] = field(default_factory=dict)  # by prompt; fine-tuning has few

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images cannot be paired with {len(prompts)} prompts")
        if not len(images):
            return images.new_zeros(0, dtype=torch.float32)
        device = next(self.model.parameters()).device
        features = [
            F.normalize(projected(self.model.get_image_features(self.preprocess(part))), dim=-1)
            for part in images.to(device, torch.float32).split(self.batch_size)
        ]
        cosine = (torch.cat(features) * self._encode_prompts(prompts)).sum(-1)
        return (self.scale * cosine).to(images.device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "N D"]:
        device = next(self.model.parameters()).device
        new = [p for p in dict.fromkeys(prompts) if p not in self.text_features]
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            tokens = self.tokenizer(
                [self.clean(prompt) for prompt in part],
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            # Attention is causal and the feature is read at the end token: padding needs no mask.
            output = self.model.get_text_features(input_ids=tokens.input_ids.to(device))
            self.text_features |= zip(part, F.normalize(projected(output), dim=-1), strict=True)
        return torch.stack([self.text_features[prompt] for prompt in prompts])


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, as PIL and torchvision do it; values may overshoot [0, 1]."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(
        images, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


def load_tokenizer(folder: Path):
    """The CLIPTokenizer in `folder`, else the one all published CLIPs share, from the hub."""
    from transformers import CLIPTokenizer

    here = any((folder / name).exists() for name in TOKENIZER_FILES)
    source = str(folder) if here else CLIP_TOKENIZER
    try:
        return CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"reward: no tokenizer in {folder}, nor is '{CLIP_TOKENIZER}' to be had from the hub"
        ) from error


def read_json(file: Path) -> dict:
    """The JSON object in `file`; an absent file is an empty one."""
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"reward: {file} is not valid JSON: {error}") from error

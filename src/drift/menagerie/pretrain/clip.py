"""Pre-train the small CLIP that both rewards descend from, on pictures and captions.

A vision transformer learns slowly from few pictures, so it is also told what every patch shows:
the world knows, and it costs nothing.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPConfig, CLIPModel

from drift.menagerie.captions import MAX_TOKENS, caption
from drift.menagerie.pretrain.exhibits import Exhibits, exhibit
from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.probe import labels
from drift.menagerie.pretrain.sets import to_images, training_set
from drift.menagerie.probe import HEADS
from drift.menagerie.scenes import SIZE
from drift.pixels import CLIP_MEAN, CLIP_STD, normalise
from drift.rewards.clip_score import projected
from drift.rewards.hpsv2 import to_open_clip

CONTRASTIVE = Schedule(steps=5000, batch_size=32, learning_rate=2e-3, average=0.995)
PATCH, WIDTH, VISION_LAYERS, TEXT_LAYERS, PROJECTION = 8, 128, 5, 2, 128


def build(tokenizer) -> CLIPModel:
    """The untrained CLIP: 1.5 M parameters, heads 64 wide as in most published ones."""
    end = tokenizer.eos_token_id
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "num_hidden_layers": TEXT_LAYERS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {"image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": VISION_LAYERS}
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": WIDTH // 64,
        "hidden_act": "gelu",
    }
    config = CLIPConfig(
        text_config=text | shape, vision_config=vision | shape, projection_dim=PROJECTION
    )
    clip = CLIPModel(config)
    with torch.no_grad():
        clip.vision_model.embeddings.position_embedding.weight[1:] = waves()
    for layer in clip.vision_model.encoder.layers:
        init_attention(layer.self_attn)
    return clip


def waves() -> Float[Tensor, "L D"]:
    """Sines and cosines of each patch's column and row: the usual start is too faint."""
    grid, rate = SIZE // PATCH, 40 ** -torch.linspace(0, 1, WIDTH // 4)
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.flatten()[:, None] * rate for axis in (x, y)]
    return torch.cat([wave(angle) / 2 for angle in angles for wave in (torch.sin, torch.cos)], 1)


@torch.no_grad()
def whiten_patches(clip: CLIPModel, images: Tensor) -> None:
    """Start with fine detail louder than it is, so that blur and noise are heard."""
    pixels = F.unfold(normalise(images, CLIP_MEAN, CLIP_STD), PATCH, stride=PATCH)
    rows = pixels.transpose(1, 2).flatten(0, 1)  # "N*L 3*PATCH*PATCH"
    variance, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    whitening = (axes * (variance + 1e-2) ** (-1 / 3)) @ axes.T
    weight = clip.vision_model.embeddings.patch_embedding.weight
    mixing = nn.init.orthogonal_(torch.empty(WIDTH, len(whitening)))
    weight.copy_((mixing @ whitening).view_as(weight))


@torch.no_grad()
def init_attention(attention: Any) -> None:
    """Mimetic initialisation (Trockman and Kolter, 2023): tokens first attend to their likes.

    Per head W_q' W_k is about 0.7 I + 0.7 Z, overall W_o W_v about 0.4 Z - 0.4 I; Z white noise.
    """
    eye, head = torch.eye(WIDTH), 64

    def factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
        left, strength, right = torch.linalg.svd(matrix)
        return left * strength.sqrt(), strength.sqrt()[:, None] * right

    for start in range(0, WIDTH, head):
        query, key = factors(0.7 * eye + 0.7 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        attention.q_proj.weight[start : start + head] = query.T[:head]
        attention.k_proj.weight[start : start + head] = key[:head]
    out, value = factors(0.4 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5 - 0.4 * eye)
    attention.out_proj.weight.copy_(out)
    attention.v_proj.weight.copy_(value)


@contextmanager
def fast(device: torch.device) -> Iterator[None]:
    """Half precision, and attention written out: the CPU's fused one is slow to differentiate."""
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def encode_texts(clip: CLIPModel, tokenizer, texts: list[str]) -> Float[Tensor, "N D"]:
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(clip.device)
    return projected(clip.get_text_features(input_ids=ids))


def see(clip: CLIPModel, images: Tensor) -> Any:
    """What the vision tower makes of images in [0, 1], in training."""
    with fast(clip.device):
        return clip.vision_model(normalise(images.to(clip.device), CLIP_MEAN, CLIP_STD))


def tell(clip: CLIPModel, tokenizer, texts: list[str]) -> Float[Tensor, "N D"]:
    """Features of texts, in training."""
    with fast(clip.device):
        return encode_texts(clip, tokenizer, texts).float()


def contrastive_loss(clip: CLIPModel, images: Tensor, texts: Tensor, names: list[str]) -> Tensor:
    """CLIP's symmetric loss of features "N D"; equal captions are one another's matches."""
    scale = clip.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    number = torch.tensor([names.index(name) for name in names], device=logits.device)
    match = (number[:, None] == number[None]).float()
    match = match / match.sum(1, keepdim=True)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


class Teacher(nn.Module):
    """Linear heads for pre-training only (token labelling; Jiang et al., 2021).

    Every attribute and the damage are read from the picture's token, and from a patch's own what it
    shows: kind and style where the animal is, the scene and the damage everywhere.
    """

    def __init__(self):
        super().__init__()
        per_patch = ("kind", "style", "scene")
        self.picture = nn.ModuleDict({n: nn.Linear(WIDTH, c) for n, c in HEADS.items()})
        self.patch = nn.ModuleDict({n: nn.Linear(WIDTH, HEADS[n]) for n in per_patch})
        self.measure_picture, self.measure_patch = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 5)

    def forward(
        self, picture: Float[Tensor, "N D"], patches: Float[Tensor, "N L D"], shown: Exhibits
    ) -> Tensor:
        """The loss of a vision tower's tokens for these pictures."""
        everywhere = self.measure_patch(patches) - shown.measures().to(patches)[:, None]
        loss = self.measure_loss(picture, shown) + everywhere.square().sum(-1).mean()
        intact, device = shown.intact, picture.device
        picture, patches = picture[intact], patches[intact]
        target = {n: told.to(device) for n, told in labels(shown.truth[intact]).items()}
        for name, head in self.picture.items():
            loss = loss + F.cross_entropy(head(picture), target[name])
        centres = (torch.arange(SIZE // PATCH, device=device) + 0.5) * PATCH / SIZE
        y, x = (axis.flatten() for axis in torch.meshgrid(centres, centres, indexing="ij"))
        size, left, top = target["place"].T[..., None]
        inside = torch.hypot(x - left, y - top) < 0.42 * size  # "N L", a disc within the drawing
        for name, head in self.patch.items():
            where = torch.ones_like(inside) if name == "scene" else inside
            row, patch = where.nonzero(as_tuple=True)
            loss = loss + F.cross_entropy(head(patches[row, patch]), target[name][row])
        return loss

    def measure_loss(self, picture: Float[Tensor, "N D"], shown: Exhibits) -> Tensor:
        wanted = shown.measures().to(picture)
        return (self.measure_picture(picture) - wanted).square().sum(-1).mean()


def train_clip(
    shop: Workshop, tokenizer, schedule: Schedule = CONTRASTIVE, pictures: int = 48_000
) -> tuple[CLIPModel, Teacher]:
    """The common ancestor of both rewards, from pictures and captions, and what read it."""
    torch.manual_seed(0)
    clip, teacher = build(tokenizer), Teacher()
    train_set, truth = training_set(shop, pictures)
    whiten_patches(clip, to_images(train_set[:1000]))

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        shown = exhibit(train_set[chosen], truth[chosen], rng)
        names = [caption(shown.truth, i, rng) for i in shown.intact]
        seen, texts = see(clip, shown.images), tell(clip, tokenizer, names)
        picture, patches = seen.pooler_output.float(), seen.last_hidden_state[:, 1:].float()
        features = clip.visual_projection(picture[shown.intact])
        return contrastive_loss(clip, features, texts, names) + teacher(picture, patches, shown)

    module = nn.ModuleDict({"clip": clip, "teacher": teacher})
    fit("clip-tiny", module, loss_at, schedule, shop)
    module.to(CPU)
    return clip, teacher


def save_transformers(clip: CLIPModel, tokenizer, folder: Path) -> None:
    """As a transformers folder: fp16 weights, configuration, tokenizer, preprocessor."""
    copy.deepcopy(clip).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIZE},
        "crop_size": {"height": SIZE, "width": SIZE},
        "resample": 3,  # bicubic
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_open_clip(clip: CLIPModel, tokenizer, folder: Path) -> None:
    """As open_clip's state dict in fp16, as HPSv2 is published, with a tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = to_open_clip({name: tensor.half() for name, tensor in clip.state_dict().items()})
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)

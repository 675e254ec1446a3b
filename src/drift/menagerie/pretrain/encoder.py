"""Pre-train dreamsim-tiny: an encoder whose squared distance follows how much two pictures differ.

The published DreamSim learned this from human judgements; here the truth is known. The target is
    d(i, j) = 2 sum_k w_k diff_k(i, j),   sum_k w_k = 1,   0 <= diff_k <= 1,
at most 2, as for orthogonal unit features, and within reach of unit features: an orthogonal block
for each attribute, of squared length w_k. Brushwork, noise, softness and light count nothing.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from drift.encoders.dreamsim import Branch, DreamSim
from drift.menagerie.animals import ANIMALS, FACINGS, STYLES, VARIANTS
from drift.menagerie.pictures import Attributes, draw_as, sprites
from drift.menagerie.pretrain.augment import blur, degrade, noise
from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.probe import labels
from drift.menagerie.pretrain.sets import TEST_SEED, picture_set, to_images, training_set
from drift.menagerie.probe import HEADS
from drift.menagerie.scenes import SCENES
from drift.types import ImageEncoder

SCHEDULE = Schedule(steps=4000, batch_size=64, learning_rate=1e-3, average=0.995)
BRANCH = {
    "image_size": 64,
    "patch_size": 8,
    "width": 128,
    "depth": 5,
    "heads": 4,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
WEIGHTS = {  # of the attributes, in squared distance; within one animal 0.85 on average
    "animal": 0.28,
    "scene": 0.20,
    "style": 0.18,
    "variant": 0.12,
    "facing": 0.12,
    "size": 0.06,
    "place": 0.04,
}
SIZE_RANGE, PLACE_RANGE = 0.36, 0.25  # differences that count in full
ANIMALS_PER_BATCH = 6
VIEWS, MIRRORED = 24, 16  # pictures of a batch that are seen twice, and how many of them mirrored

VIEWS_WEIGHT = 2.0  # of the pairs of views, in the loss
# Weights of the readers' cross-entropies at the start; they fall to zero. Facing is hardest for a
# ViT: with weight 0.1 and no views mirrored it stood at chance after 1,500 steps.
READING = {"animal": 0.1, "style": 0.1, "kind": 0.1, "scene": 0.1, "facing": 1.0}


def differences(truth: Attributes) -> dict[str, np.ndarray]:
    """How much each pair of N pictures differs in each attribute: "N N" in [0, 1]."""
    columns = {f: np.asarray(v)[:, None] - np.asarray(v)[None] for f, v in vars(truth).items()}
    diff = {name: columns[name] != 0 for name in ("animal", "scene", "style", "facing")}
    diff["variant"] = diff["animal"] | (columns["variant"] != 0)
    diff["size"] = (np.abs(columns["size"]) / SIZE_RANGE).clip(0, 1)
    diff["place"] = (np.hypot(columns["x"], columns["y"]) / PLACE_RANGE).clip(0, 1)
    return diff


def target(truth: Attributes) -> Tensor:
    """The squared distance wanted between each pair of N pictures: "N N" in [0, 2]."""
    diff = differences(truth)
    return torch.from_numpy(2 * sum(w * diff[name] for name, w in WEIGHTS.items())).float()


def squared_distances(features: Tensor) -> Tensor:
    """Between each pair of rows of length 1: "N N"."""
    return 2 - 2 * features @ features.T


def build() -> DreamSim:
    branch = Branch(**BRANCH)
    places = branch.vit.pos_embed.data[:, 1:]
    places += _waves(math.isqrt(places.shape[1]), places.shape[2])
    return DreamSim([branch])


def _waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column [side * side, width]: what is near need not be learnt."""
    rates = torch.logspace(0, -2, width // 4)
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return 0.5 * torch.cat([rows, columns], 2).flatten(0, 1)


def mirror(truth: Attributes) -> Attributes:
    """What is true of the mirror images."""
    front = truth.facing == FACINGS.index("front")
    return replace(truth, facing=np.where(front, truth.facing, 1 - truth.facing), x=1 - truth.x)


def batch_indices(by_animal: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A few animals with several pictures each; the last `VIEWS` repeat the first ones."""
    chosen = rng.choice(len(by_animal), ANIMALS_PER_BATCH, replace=False)
    pools = np.resize(chosen, size - VIEWS)
    pictures = np.array([rng.choice(by_animal[animal]) for animal in pools])
    return np.concatenate([pictures, pictures[:VIEWS]])


def train(shop: Workshop, schedule: Schedule = SCHEDULE, pictures: int = 48_000) -> DreamSim:
    """Regress the distances; at first linear readers of the attributes, thrown away later, help."""
    torch.manual_seed(0)
    encoder, width = build(), BRANCH["width"]
    readers = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})
    train_set, truth = training_set(shop, pictures)
    by_animal = [np.where(truth.animal == animal)[0] for animal in range(len(ANIMALS))]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = batch_indices(by_animal, schedule.batch_size, rng)
        first, second = slice(0, -MIRRORED), slice(-MIRRORED, None)
        seen = Attributes.concatenate([truth[chosen[first]], mirror(truth[chosen[second]])])
        images = to_images(train_set[chosen])
        images = degrade(torch.cat([images[first], images[second].flip(3)]), rng)
        images = images.to(shop.device)
        # The CPU's fused attention spends half of a step in its bfloat16 backward pass.
        with torch.autocast(shop.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            features = encoder(images)
        error = (squared_distances(features) - target(seen).to(shop.device)).square()
        views = error.diagonal(schedule.batch_size - VIEWS)
        same = torch.from_numpy(seen.animal[:, None] == seen.animal[None]).to(shop.device)
        wanted, scaled = labels(seen), width**0.5 * features
        reading = sum(
            weight * F.cross_entropy(readers[name](scaled), wanted[name].to(shop.device))
            for name, weight in READING.items()
        )
        pairs = error[same].mean() + error[~same].mean() + VIEWS_WEIGHT * views.mean()
        return pairs + (1 - step / schedule.steps) * reading

    fit("dreamsim", nn.ModuleList([encoder, readers]), loss_at, schedule, shop)
    return encoder.to(CPU).eval().requires_grad_(False)


def save(encoder: DreamSim, folder: Path) -> None:
    """Write `folder` in the form that `drift.encoders.dreamsim.load` reads; weights as fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    vit = encoder.get_submodule("branches.0.vit").state_dict()
    weights = {name: tensor.half().contiguous() for name, tensor in vit.items()}
    save_file(weights, folder / "model.safetensors")
    config = {"branches": [{"weights": "model.safetensors", **BRANCH}]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def one_change(count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of images that differ in one thing alone, by its name; at most `count` of each."""
    rng, rows = np.random.default_rng(TEST_SEED), range(count)
    animal = rng.integers(len(ANIMALS), size=count)
    kinds = np.array([len(names) for names in VARIANTS.values()])[animal]
    style, scene = rng.integers(len(STYLES), size=count), rng.integers(len(SCENES), size=count)
    left, half = np.zeros(count, int), np.full(count, 0.5)
    place = {"size": half + 0.15, "x": half, "y": half + 0.1}  # fits every drawing
    base = Attributes(animal, style, rng.integers(kinds), scene, left, **place)
    changed = {
        "scene": replace(base, scene=(scene + 1) % len(SCENES)),
        "style": replace(base, style=(style + 1) % len(STYLES)),
        "variant": replace(base, variant=(base.variant + 1) % kinds),
        "facing": replace(base, facing=left + FACINGS.index("right")),
        "size": replace(base, size=base.size - 0.15),
        "place": replace(base, x=base.x + 0.1),
    }

    def symmetric(truth: Attributes) -> np.ndarray:
        keys = zip(truth.animal, truth.variant, truth.style, strict=True)
        return np.array([sprites()[key].symmetric for key in keys])

    before, pairs = to_images(np.stack([draw_as(base, i, i) for i in rows])), {}
    for name, truth in changed.items():
        usable = symmetric(truth) == symmetric(base)  # else the facing would change with it
        usable &= {"variant": kinds > 1, "facing": ~symmetric(base)}.get(name, True)
        kept = np.where(usable)[0]
        pairs[name] = before[kept], to_images(np.stack([draw_as(truth, i, i) for i in kept]))
    repainted = to_images(np.stack([draw_as(base, i, count + i) for i in rows]))
    return pairs | {
        "paint": (before, repainted),
        "noise": (before, noise(before, 0.04, rng).clamp(0, 1)),
        "blur": (before, blur(before, 1.0)),
        "light": (before, (1.12 * before).clamp(0, 1)),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def correlations(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's (ties share a rank)."""
    ranks = np.corrcoef(_ranks(a), _ranks(b))
    return float(np.corrcoef(a, b)[0, 1]), float(ranks[0, 1])


@torch.no_grad()
def quality(encoder: ImageEncoder, count: int = 1500, changes: int = 300) -> dict[str, float]:
    """On held-out pictures: correlation of distance and target over all pairs and within animals,
    mean squared distance within animals, and by the one thing that differs (`only_...`)."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    rows = np.arange(count)
    images, truth = to_images(pictures[rows]), truth[rows]
    distance = squared_distances(torch.cat([encoder(part) for part in images.split(100)])).numpy()
    wanted, pair = target(truth).numpy(), np.triu(np.ones((count, count), bool), 1)
    same = pair & (truth.animal[:, None] == truth.animal[None])
    figures = {}
    for name, chosen in (("", pair), ("within_", same)):
        both = correlations(distance[chosen], wanted[chosen])
        figures[name + "pearson"], figures[name + "spearman"] = both
    figures |= {"within_mean": distance[same].mean(), "within_target": wanted[same].mean()}
    for name, (before, after) in one_change(changes).items():
        moved = (encoder(before) - encoder(after)).square().sum(1)
        figures[f"only_{name}"] = float(moved.mean())
    return {name: round(float(figure), 4) for name, figure in figures.items()}

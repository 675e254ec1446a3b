"""Pre-train the attribute probe."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drift.menagerie.animals import ANIMALS, FACINGS
from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.augment import degrade
from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.sets import TEST_SEED, picture_set, to_images, training_set
from drift.menagerie.probe import HEADS, KINDS, Probe, read

SCHEDULE = Schedule(steps=5000, batch_size=64, learning_rate=2e-3, average=0.995)
MIXED = 0.3  # share of pictures that are blended with another one


def labels(truth: Attributes) -> dict[str, Tensor]:
    """Class numbers by head, and `place` "N 3" (size, x, y)."""
    first = np.cumsum([0, *(sum(a == b for b, _ in KINDS) for a in ANIMALS)])[:-1]
    columns = {name: getattr(truth, name) for name in HEADS if name != "kind"}
    columns["kind"] = first[truth.animal] + truth.variant
    place = np.stack([truth.size, truth.x, truth.y], 1).astype(np.float32)
    return {n: torch.as_tensor(c) for n, c in columns.items()} | {"place": torch.from_numpy(place)}


def mix(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend some pictures with their neighbour in the batch; returns the own weight "N"."""
    weight = np.where(rng.random(len(images)) < MIXED, rng.uniform(0.4, 1.0, len(images)), 1.0)
    own = torch.from_numpy(weight).float()
    blend = own[:, None, None, None]
    return blend * images + (1 - blend) * images.roll(1, 0), own


def train(shop: Workshop, schedule: Schedule = SCHEDULE, pictures: int = 48_000) -> Probe:
    torch.manual_seed(0)
    probe = Probe()
    probe = probe.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train_set, truth = training_set(shop, pictures)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        target = {n: told.to(shop.device) for n, told in labels(truth[chosen]).items()}
        mixed = mix(degrade(to_images(train_set[chosen]), rng), rng)
        images, own = (tensor.to(shop.device) for tensor in mixed)
        logits, place = probe(images)
        loss = 4 * (own * (place - target["place"]).square().mean(1)).mean()
        for name, scores in logits.items():
            mine = F.cross_entropy(scores, target[name], reduction="none")
            other = F.cross_entropy(scores, target[name].roll(1), reduction="none")
            loss = loss + (own * mine + (1 - own) * other).mean()
        return loss

    fit("probe", probe, loss_at, schedule, shop)
    return probe.to(CPU).eval()


def accuracy(probe: Probe, images: Tensor, truth: Attributes) -> dict[str, float]:
    """Share of right readings; facing where the drawing is not symmetric; size error in widths."""
    reading, target = read(probe, images), labels(truth)
    right = {n: getattr(reading, n).argmax(1) == target[n] for n in HEADS}
    right["facing"] = right["facing"][target["facing"] != FACINGS.index("front")]
    right["is_animal"] = reading.is_animal(target["animal"])
    figures = {name: round(float(hits.float().mean()), 4) for name, hits in right.items()}
    error = (reading.size - target["place"][:, 0]).abs().mean()
    return figures | {"size_error": round(float(error), 4)}


def quality(probe: Probe, count: int = 4000) -> dict[str, float]:
    """Accuracy on held-out clean pictures."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    return accuracy(probe, to_images(pictures[:count]), truth[np.arange(count)])

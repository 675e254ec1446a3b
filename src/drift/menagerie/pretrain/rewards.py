"""Pre-train the Menagerie's two rewards as PickScore and HPSv2 were made: one CLIP, two tastes.

Each reward is a copy of the small CLIP, fine-tuned on noisy verdicts by a judge whose taste is
hidden (`menagerie.taste`).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPModel

from drift.menagerie.animals import ANIMALS
from drift.menagerie.captions import caption, simple_prompt
from drift.menagerie.pretrain.clip import Teacher, contrastive_loss, see, tell
from drift.menagerie.pretrain.drawn import Drawn, gold_of
from drift.menagerie.pretrain.exhibits import OWN, damage, exhibit
from drift.menagerie.pretrain.loop import CPU, Schedule, Workshop, fit
from drift.menagerie.pretrain.sets import to_images, training_set
from drift.menagerie.probe import Probe
from drift.menagerie.taste import Taste

PREFERENCE = Schedule(steps=2400, batch_size=48, learning_rate=1e-3, warmup=50, average=0.99)
TEMPERATURE = 0.3  # of the judges: P(i beats j) = sigmoid((u_i - u_j) / TEMPERATURE)
CONTRASTIVE_WEIGHT = 0.1  # keeps the captions known while tastes are learnt
MEASURE_WEIGHT = 0.1  # likewise size, place and damage
PAINTED = 0.4  # share of batches; the others show pictures that the model drew
DRAWN_DAMAGED = 0.2  # share of those
OTHERS = 2  # pictures of other animals compared for one prompt


def draw_comparisons(
    animals: np.ndarray, prompts: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures to look at "P*OWN", and positions among them to compare "P OWN+OTHERS".

    Row p is about the animal of its first picture: OWN pictures show it, OTHERS another row's.
    """
    asked = rng.choice(len(ANIMALS), prompts, replace=False)
    chosen = [rng.choice(np.flatnonzero(animals == a), OWN, replace=False) for a in asked]
    own = np.arange(prompts * OWN).reshape(prompts, OWN)
    others = (own[:, :OTHERS] + OWN * rng.integers(1, prompts, (prompts, 1))) % own.size
    return np.concatenate(chosen), np.concatenate([own, others], 1)


def preference_loss(scores: Float[Tensor, "P C"], gold: Float[Tensor, "P C"]) -> Float[Tensor, ""]:
    """Bradley-Terry: minus the log-likelihood of noisy verdicts on every pair of a row."""
    one, two = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    chance = torch.sigmoid((gold[:, one] - gold[:, two]) / TEMPERATURE)
    verdict = torch.bernoulli(chance)
    return F.binary_cross_entropy_with_logits(scores[:, one] - scores[:, two], verdict)


def scores_of(
    clip: CLIPModel, texts: Float[Tensor, "P D"], images: Float[Tensor, "N D"], rows: np.ndarray
) -> Float[Tensor, "P C"]:
    """PickScore's exp(logit_scale) * cosine, of the images in each prompt's row."""
    scale = clip.logit_scale.clamp(max=math.log(100)).exp()
    scores = scale * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    return scores.gather(1, torch.from_numpy(rows).to(scores.device))


@dataclass(frozen=True)
class School:
    """Who is trained and on what, whatever the taste."""

    ancestor: CLIPModel
    teacher: Teacher
    tokenizer: Any
    probe: Probe  # reads what drawn pictures are worth
    drawn: Drawn


def train_reward(
    shop: Workshop,
    name: str,
    school: School,
    taste: Taste,
    schedule: Schedule = PREFERENCE,
    pictures: int = 48_000,
) -> CLIPModel:
    """A copy of the ancestor whose exp(logit_scale) * cosine predicts a judge of this taste.

    PAINTED of the batches show painted pictures, of which all is known: there the teacher still
    asks for size, place and damage. The others show what the model drew.
    """
    torch.manual_seed(0)
    clip, teacher = copy.deepcopy((school.ancestor, school.teacher))
    train_set, truth = training_set(shop, pictures)
    prompts, size = [simple_prompt(animal) for animal in ANIMALS], schedule.batch_size // OWN

    def painted_loss(rng: np.random.Generator) -> Tensor:
        chosen, rows = draw_comparisons(truth.animal, size, rng)
        shown = exhibit(train_set[chosen], truth[chosen], rng)
        wanted = truth.animal[chosen[rows[:, 0]]]
        names = [caption(shown.truth, i, rng) for i in shown.intact]
        seen = see(clip, shown.images).pooler_output.float()
        told = tell(clip, school.tokenizer, [prompts[a] for a in wanted] + names)
        texts, captions = told.split((len(wanted), len(names)))
        features = clip.visual_projection(seen)
        gold = shown.gold(taste, rows).to(shop.device)
        loss = preference_loss(scores_of(clip, texts, features, rows), gold)
        contrastive = contrastive_loss(clip, features[shown.intact], captions, names)
        measured = teacher.measure_loss(seen, shown)
        return loss + CONTRASTIVE_WEIGHT * contrastive + MEASURE_WEIGHT * measured

    def drawn_loss(rng: np.random.Generator) -> Tensor:
        chosen, rows = draw_comparisons(school.drawn.animal, size, rng)
        images, _ = damage(to_images(school.drawn.pictures[chosen]), rng, share=DRAWN_DAMAGED)
        wanted = torch.from_numpy(school.drawn.animal[chosen[rows[:, 0]]])
        flat, asked = rows.ravel(), wanted.repeat_interleave(rows.shape[1])
        gold, _ = gold_of(taste, school.probe, images[flat], asked)
        texts = tell(clip, school.tokenizer, [prompts[animal] for animal in wanted])
        seen = see(clip, images).pooler_output.float()
        scores = scores_of(clip, texts, clip.visual_projection(seen), rows)
        return preference_loss(scores, gold.view(rows.shape).to(shop.device))

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        return painted_loss(rng) if rng.random() < PAINTED else drawn_loss(rng)

    module = nn.ModuleDict({"clip": clip, "teacher": teacher})
    fit(name, module, loss_at, schedule, shop)
    return clip.to(CPU).eval()

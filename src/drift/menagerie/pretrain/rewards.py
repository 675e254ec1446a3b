"""Pre-train the Menagerie's two rewards as PickScore and HPSv2 were made: one CLIP, two tastes.

Each reward is a copy of the small CLIP, fine-tuned on noisy verdicts by a judge whose taste is
hidden (`menagerie.taste`).
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPModel

from drift.menagerie.animals import ANIMALS
from drift.menagerie.captions import caption, simple_prompt
from drift.menagerie.pictures import Attributes
from drift.menagerie.pretrain.clip import (
    Teacher,
    contrastive_loss,
    encode_texts,
    fast,
)
from drift.menagerie.pretrain.exhibits import OWN, exhibit
from drift.menagerie.pretrain.loop import Schedule, Workshop, fit
from drift.menagerie.pretrain.sets import to_images, training_set
from drift.menagerie.taste import Taste
from drift.pixels import CLIP_MEAN, CLIP_STD, normalise

PREFERENCE = Schedule(steps=1200, batch_size=48, learning_rate=1e-3, warmup=50, average=0.99)
TEMPERATURE = 0.3  # of the judges: P(i beats j) = sigmoid((u_i - u_j) / TEMPERATURE)
CONTRASTIVE_WEIGHT = 0.1  # keeps the captions known while tastes are learnt
MEASURE_WEIGHT = 0.1  # likewise size, place and damage
OTHERS = 2  # pictures of other animals compared for one prompt


def draw_comparisons(
    truth: Attributes, prompts: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures to look at "P*OWN", and positions among them to compare "P OWN+OTHERS".

    Row p is about the animal of its first picture: OWN pictures show it, OTHERS another row's.
    """
    animals = rng.choice(len(ANIMALS), prompts, replace=False)
    chosen = [rng.choice(np.flatnonzero(truth.animal == a), OWN, replace=False) for a in animals]
    own = np.arange(prompts * OWN).reshape(prompts, OWN)
    others = (own[:, :OTHERS] + OWN * rng.integers(1, prompts, (prompts, 1))) % own.size
    return np.concatenate(chosen), np.concatenate([own, others], 1)


def preference_loss(scores: Float[Tensor, "P C"], gold: Float[Tensor, "P C"]) -> Float[Tensor, ""]:
    """Bradley-Terry: minus the log-likelihood of noisy verdicts on every pair of a row."""
    one, two = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    chance = torch.sigmoid((gold[:, one] - gold[:, two]) / TEMPERATURE)
    verdict = torch.bernoulli(chance)
    return F.binary_cross_entropy_with_logits(scores[:, one] - scores[:, two], verdict)


@torch.no_grad()
def decode_pictures(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, S, S, 3] uint8 after a way through the autoencoder."""
    parts = []
    for start in tqdm(range(0, len(pictures), 100), desc="decode"):
        images = to_images(pictures[start : start + 100]) * 2 - 1
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        parts.append((decoded * 127.5 + 128).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def train_reward(
    shop: Workshop,
    name: str,
    ancestor: CLIPModel,
    teacher: Teacher,
    tokenizer,
    taste: Taste,
    decoded: np.ndarray,
    schedule: Schedule = PREFERENCE,
    pictures: int = 48_000,
) -> CLIPModel:
    """A copy of the ancestor whose exp(logit_scale) * cosine predicts a judge of this taste.

    Every other batch shows the first pictures as the autoencoder decodes them (`decode_pictures`),
    for such are what it will judge. The teacher still asks for size, place and damage.
    """
    torch.manual_seed(0)
    clip, teacher = copy.deepcopy((ancestor, teacher))
    train_set, truth = training_set(shop, pictures)
    prompts = [simple_prompt(animal) for animal in ANIMALS]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        source = (train_set, decoded)[step % 2]
        known = truth[np.arange(len(source))]
        chosen, rows = draw_comparisons(known, schedule.batch_size // OWN, rng)
        shown = exhibit(source[chosen], truth[chosen], rng)
        wanted = truth.animal[chosen[rows[:, 0]]]
        names = [caption(shown.truth, i, rng) for i in shown.intact]
        with fast(shop.device):
            images = normalise(shown.images.to(shop.device), CLIP_MEAN, CLIP_STD)
            seen = clip.vision_model(images).pooler_output
            texts = encode_texts(clip, tokenizer, [prompts[a] for a in wanted] + names).float()
        features = clip.visual_projection(seen.float())
        texts, captions = texts.split((len(wanted), len(names)))
        scale = clip.logit_scale.clamp(max=math.log(100)).exp()
        scores = scale * F.normalize(texts, dim=-1) @ F.normalize(features, dim=-1).T
        compared = scores.gather(1, torch.from_numpy(rows).to(shop.device))
        loss = preference_loss(compared, shown.gold(taste, rows).to(shop.device))
        contrastive = contrastive_loss(clip, features[shown.intact], captions, names)
        measured = teacher.measure_loss(seen.float(), shown)
        return loss + CONTRASTIVE_WEIGHT * contrastive + MEASURE_WEIGHT * measured

    module = nn.ModuleDict({"clip": clip, "teacher": teacher})
    fit(name, module, loss_at, schedule, shop)
    return clip.to("cpu").eval()

"""What a trained reward knows: figures on held-out pictures."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drift.menagerie.animals import ANIMALS, FACINGS, STYLES
from drift.menagerie.captions import simple_prompt
from drift.menagerie.pretrain.augment import blur, low_resolution, noise
from drift.menagerie.pretrain.clip import encode_texts
from drift.menagerie.pretrain.drawn import Drawn, gold_of
from drift.menagerie.pretrain.encoder import correlations
from drift.menagerie.pretrain.exhibits import chimera, exhibit, melt, shuffle
from drift.menagerie.pretrain.loop import batch_rng
from drift.menagerie.pretrain.rewards import TEMPERATURE, draw_comparisons
from drift.menagerie.pretrain.sets import TEST_SEED, picture_set, to_images
from drift.menagerie.probe import Probe
from drift.menagerie.scenes import SCENES
from drift.menagerie.taste import Taste, cleanness, utility
from drift.rewards.clip_score import ClipScore, projected


@torch.no_grad()
def score_all(reward: ClipScore, images: Tensor) -> Float[Tensor, "N A"]:
    """The score of every picture for every animal's simple prompt."""
    clip, prompts = reward.model, [simple_prompt(animal) for animal in ANIMALS]
    texts = F.normalize(encode_texts(clip, reward.tokenizer, prompts), dim=-1)
    parts = (clip.get_image_features(reward.preprocess(part)) for part in images.split(100))
    features = F.normalize(torch.cat([projected(part) for part in parts]), dim=-1)
    return reward.scale * features @ texts.T


def humps(values: Tensor, bandwidth: float = 0.3, depth: float = 0.03) -> int:
    """How many humps a distribution has, smoothed by `bandwidth` standard deviations.

    A hump counts if its peak stands out from the valley before it by `depth` of the highest peak.
    """
    z = (values - values.mean()) / values.std()
    grid = torch.linspace(float(z.min()) - 1, float(z.max()) + 1, 200)
    density = torch.exp(-0.5 * ((grid[:, None] - z) / bandwidth) ** 2).mean(1)
    count, valley, peak, rising = 0, 0.0, 0.0, True
    for height in (density / density.max()).tolist():
        if rising:
            peak = max(peak, height)
            if height < peak - depth:
                count, valley, rising = count + 1, height, False
        else:
            valley = min(valley, height)
            if height > valley + depth:
                peak, rising = height, True
    return count


def by_class(scores: Tensor, numbers: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    chosen = torch.from_numpy(numbers)
    return {n: round(float(scores[chosen == k].mean()), 2) for k, n in enumerate(names)}


def comparisons(reward: ClipScore, taste: Taste, rounds: int = 40) -> dict[str, float]:
    """How often the reward agrees with noisy judges on held-out pairs, and how often gold does."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    agreed, possible, pairs = 0.0, 0.0, 0
    for turn in range(rounds):
        rng = batch_rng(turn, stream=2)
        chosen, rows = draw_comparisons(truth.animal, 12, rng)
        shown = exhibit(pictures[chosen], truth[chosen], rng)
        gold, wanted = shown.gold(taste, rows), truth.animal[chosen[rows[:, 0]]]
        scores = score_all(reward, shown.images)[:, wanted].T.gather(1, torch.from_numpy(rows))
        one, two = torch.triu_indices(rows.shape[1], rows.shape[1], 1)
        first = torch.from_numpy(rng.random((len(rows), len(one)))) < torch.sigmoid(
            (gold[:, one] - gold[:, two]) / TEMPERATURE
        )
        agreed += float(((scores[:, one] > scores[:, two]) == first).sum())
        possible += float(((gold[:, one] > gold[:, two]) == first).sum())
        pairs += first.numel()
    return {
        "preference_accuracy": round(agreed / pairs, 4),
        "noise_ceiling": round(possible / pairs, 4),
    }


def damages(images: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """The same images, damaged in the ways that a reward should mind."""
    others = images.roll(1, 0)
    return {
        "blur 1.3": blur(images, 1.3),
        "24 pixels": low_resolution(images, 24),
        "noise 0.1": noise(images, 0.1, rng).clamp(0, 1),
        "blend 0.5": 0.5 * images + 0.5 * others,
        "chimera 0.5": chimera(images, others, 32),
        "shuffle 0.5": shuffle(images, 0.5, 16, rng),
        "melt 0.2": melt(images, 0.2, rng),
    }


def within(values: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Values "N" less their group's mean in its standard deviations, and these "N"."""
    standard, std = torch.empty_like(values), torch.empty_like(values)
    for g in groups:
        std[g] = values[g].std().clamp(min=1e-6)
        standard[g] = (values[g] - values[g].mean()) / std[g]
    return standard, std


def explained(values: Tensor, by: Tensor) -> float:
    """Share of the variance of `values` that is linear in `by`, both "N"."""
    return float(torch.corrcoef(torch.stack([values, by]))[0, 1] ** 2)


def drawn_quality(reward: ClipScore, taste: Taste, probe: Probe, drawn: Drawn) -> dict:
    """Figures on pictures that a model drew: agreement with gold as the probe reads it, and what
    the right animal is worth to both."""
    images, animal = to_images(drawn.pictures), torch.from_numpy(drawn.animal)
    score = score_all(reward, images)[torch.arange(len(images)), animal]
    gold, seen = gold_of(taste, probe, images, animal)
    groups = [torch.where(animal == a)[0] for a in animal.unique()]
    ranked = [correlations(score[g].numpy(), gold[g].numpy())[1] for g in groups]
    standard, shares = within(score, groups)[0], within(seen.shown(animal), groups)[0]
    return {
        "spearman": round(float(np.mean(ranked)), 3),
        "right_explains": round(explained(standard, shares), 3),
        "right_explains_gold": round(explained(within(gold, groups)[0], shares), 3),
        "humps": humps(standard),
    }


def quality(reward: ClipScore, taste: Taste, count: int = 4000) -> dict:
    """Figures on held-out paintings; effects, gap and drops in standard deviations of a prompt."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    images, truth = to_images(pictures[:count]), truth[np.arange(count)]
    animal, rows = torch.from_numpy(truth.animal), torch.arange(count)
    every = score_all(reward, images)
    score = every[rows, animal]
    groups = [rows[animal == a] for a in range(len(ANIMALS))]
    standard, std = within(score, groups)
    mean = score - standard * std
    gold = utility(taste, truth, torch.ones(count), cleanness(images))

    rng, few = batch_rng(0, stream=1), slice(0, 1000)
    damaged = damages(images[few], rng)
    after = {n: score_all(reward, d)[rows[few], animal[few]] for n, d in damaged.items()}
    drop = {n: ((score[few] - s) / std[few]).mean() for n, s in after.items()}

    other = every[rows, (animal + torch.from_numpy(rng.integers(1, len(ANIMALS), count))) % 45]
    pool = torch.where(torch.from_numpy(rng.random(count) < 0.15), (other - mean) / std, standard)
    ranked = [correlations(score[g].numpy(), gold[g].numpy())[1] for g in groups]
    return comparisons(reward, taste) | {
        "spearman": round(float(np.mean(ranked)), 3),
        "retrieval": round(float((every.argmax(1) == animal).float().mean()), 3),
        "own_above_other": round(float((score > other).float().mean()), 3),
        "std_within_prompt": round(float(std.mean()), 3),
        "mean_score": round(float(score.mean()), 3),
        "right_wrong_gap": round(float(((score - other) / std).mean()), 2),
        "drop": {name: round(float(value), 2) for name, value in drop.items()},
        "by_scene": by_class(standard, truth.scene, SCENES),
        "by_style": by_class(standard, truth.style, STYLES),
        "by_facing": by_class(standard, truth.facing, FACINGS),
        "humps": humps(standard),
        "humps_with_wrong": humps(pool),
    }

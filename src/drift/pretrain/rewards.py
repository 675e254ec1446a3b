"""Pre-train the Menagerie's two reward models as PickScore and HPSv2 were made: one CLIP, two tastes.

A small CLIP learns pictures and captions; each reward is a copy of it, fine-tuned on noisy comparisons of
its judge's hidden gold utility (`menagerie.taste`). A vision transformer learns slowly from few pictures,
so the CLIP is also told what every patch shows ("token labelling"): the world knows, and it costs nothing.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPConfig, CLIPModel

from drift.menagerie.animals import ANIMALS, FACINGS, STYLES
from drift.menagerie.captions import MAX_TOKENS, caption, simple_prompt
from drift.menagerie.pictures import Attributes
from drift.menagerie.probe import HEADS
from drift.menagerie.scenes import SCENES, SIZE
from drift.menagerie.taste import Taste, cleanness, utility
from drift.pretrain.augment import blur, degrade, low_resolution, noise
from drift.pretrain.loop import (
    TEST_SEED,
    TRAIN_SEED,
    Schedule,
    batch_rng,
    fit,
    picture_set,
    to_images,
)
from drift.pretrain.probe import labels
from drift.rewards.clip_score import CLIP_MEAN, CLIP_STD, ClipScore, normalise, projected
from drift.rewards.hpsv2 import to_open_clip

CONTRASTIVE = Schedule(steps=5000, batch_size=32, learning_rate=2e-3, average=0.995)
PREFERENCE = Schedule(steps=1200, batch_size=48, learning_rate=6e-4, warmup=50, average=0.99)
PATCH, WIDTH, VISION_LAYERS, TEXT_LAYERS, PROJECTION = 8, 128, 5, 2, 128
OWN, OTHERS = 4, 2  # pictures compared for one prompt: of its animal, and of other animals
TEMPERATURE = 0.3  # of the judges: P(i beats j) = sigmoid((u_i - u_j) / TEMPERATURE)
CONTRASTIVE_WEIGHT = 0.1  # keeps the captions known while tastes are learnt


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
    # As loud as its inputs: the default, 0.02, is meant for much wider towers.
    nn.init.normal_(clip.vision_model.embeddings.patch_embedding.weight, std=(3 * PATCH**2) ** -0.5)
    for layer in clip.vision_model.encoder.layers:
        init_attention(layer.self_attn)
    return clip


@torch.no_grad()
def init_attention(attention: nn.Module) -> None:
    """Mimetic initialisation (Trockman and Kolter, 2023): tokens first attend to their likes.

    Per head W_q' W_k is about 0.7 I + 0.7 Z, overall W_o W_v about 0.4 Z - 0.4 I, with Z white noise.
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
def fast() -> Iterator[None]:
    """Half precision, and attention written out: the CPU's fused one is slow to differentiate."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def encode_images(clip: CLIPModel, images: Tensor) -> Float[Tensor, "N D"]:
    return projected(clip.get_image_features(normalise(images, CLIP_MEAN, CLIP_STD)))


def encode_texts(clip: CLIPModel, tokenizer, texts: list[str]) -> Float[Tensor, "N D"]:
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    return projected(clip.get_text_features(input_ids=ids))


def contrastive_loss(clip: CLIPModel, images: Tensor, texts: Tensor, names: list[str]) -> Tensor:
    """CLIP's symmetric loss of features "N D"; equal captions are one another's matches."""
    scale = clip.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    number = torch.tensor([names.index(name) for name in names])
    match = (number[:, None] == number[None]).float()
    match = match / match.sum(1, keepdim=True)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


class Teacher(nn.Module):
    """Linear heads for pre-training only: every attribute from the picture's token, and what a patch
    shows (kind and style where the animal is, the scene everywhere) from the patch's own."""

    def __init__(self):
        super().__init__()
        self.picture = nn.ModuleDict({n: nn.Linear(WIDTH, c) for n, c in HEADS.items()})
        self.place = nn.Linear(WIDTH, 3)
        self.patch = nn.ModuleDict({n: nn.Linear(WIDTH, HEADS[n]) for n in ("kind", "style", "scene")})

    def forward(
        self, picture: Float[Tensor, "N D"], patches: Float[Tensor, "N L D"], truth: Attributes
    ) -> Tensor:
        """The loss of a vision tower's tokens for pictures with these attributes."""
        target = labels(truth)
        loss = 4 * F.mse_loss(self.place(picture), target["place"])
        for name, head in self.picture.items():
            loss = loss + F.cross_entropy(head(picture), target[name])
        centres = (torch.arange(SIZE // PATCH) + 0.5) * PATCH / SIZE
        y, x = (axis.flatten() for axis in torch.meshgrid(centres, centres, indexing="ij"))
        size, left, top = target["place"].T[..., None]
        inside = torch.hypot(x - left, y - top) < 0.42 * size  # "N L", an ellipse within the drawing
        for name, head in self.patch.items():
            where = torch.ones_like(inside) if name == "scene" else inside
            row, patch = where.nonzero(as_tuple=True)
            loss = loss + F.cross_entropy(head(patches[row, patch]), target[name][row])
        return loss


def train_clip(
    work: Path, tokenizer, schedule: Schedule = CONTRASTIVE, pictures: int = 48_000
) -> CLIPModel:
    """The common ancestor of both rewards, from pictures and captions."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"clip": build(tokenizer), "teacher": Teacher()})
    clip, teacher = module["clip"], module["teacher"]
    train_set, truth = picture_set(TRAIN_SEED, pictures)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(train_set), schedule.batch_size, replace=False))
        names = [caption(truth, index, rng) for index in chosen]
        images = degrade(to_images(train_set[chosen]), rng)
        with fast():
            seen = clip.vision_model(normalise(images, CLIP_MEAN, CLIP_STD))
            texts = encode_texts(clip, tokenizer, names).float()
        picture, patches = seen.pooler_output.float(), seen.last_hidden_state[:, 1:].float()
        loss = contrastive_loss(clip, clip.visual_projection(picture), texts, names)
        return loss + teacher(picture, patches, truth[chosen])

    fit("clip-tiny", module, loss_at, schedule, work=work)
    return clip


# Mangling. Each takes images "N 3 S S" and returns them with how right the animal still is, in [0, 1].


def blend(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Two animals in one: each picture mixed with its neighbour in the batch."""
    own = rng.uniform(0.3, 0.8)
    return own * images + (1 - own) * images.roll(1, 0), own


def chimera(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """The left of one picture beside the right of its neighbour."""
    cut = int(rng.integers(24, 41))
    return torch.cat([images[..., :cut], images.roll(1, 0)[..., cut:]], -1), 0.5


def shuffle(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A share of the tiles over the animal change places."""
    tile = int(rng.choice((8, 16)))
    cells = [(y, x) for y in range(16, 64 - tile + 1, tile) for x in range(8, 56 - tile + 1, tile)]
    moved = rng.permutation(len(cells))[: max(2, round(rng.uniform(0.25, 1) * len(cells)))]
    result = images.clone()
    for a, b in zip(moved, np.roll(moved, 1), strict=True):
        (y, x), (v, u) = cells[a], cells[b]
        result[..., y : y + tile, x : x + tile] = images[..., v : v + tile, u : u + tile]
    return result, 1 - len(moved) / len(cells)


def melt(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Bent by a smooth random displacement of up to a sixth of the picture."""
    reach = rng.uniform(0.06, 0.3)  # in half pictures
    bend = torch.from_numpy(rng.uniform(-reach, reach, (len(images), 2, 6, 6)).astype(np.float32))
    bend = F.interpolate(bend, size=images.shape[-1], mode="bicubic").permute(0, 2, 3, 1)
    straight = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), False)
    bent = F.grid_sample(images, straight + bend, padding_mode="reflection", align_corners=False)
    return bent, 1 - reach / 0.3


def soften(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    if rng.random() < 0.5:
        return blur(images, rng.uniform(0.4, 1.8)), 1.0
    return low_resolution(images, int(rng.integers(20, 52))), 1.0


def sprinkle(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    return noise(images, rng.uniform(0.01, 0.15), rng).clamp(0, 1), 1.0


Damage = Callable[[Tensor, np.random.Generator], tuple[Tensor, float]]
DAMAGES: tuple[Damage, ...] = (soften, sprinkle, blend, chimera, shuffle, melt)
DAMAGED = 0.45  # share of pictures


@dataclass(frozen=True)
class Exhibits:
    """Pictures to be compared: what they are, and how right and clean the damage has left them."""

    images: Tensor
    truth: Attributes
    right: Float[Tensor, "N"]
    clean: Float[Tensor, "N"]

    def utility(self, taste: Taste, wanted: np.ndarray) -> Float[Tensor, "N"]:
        """Gold utility of picture i for the animal `wanted[i]`."""
        right = self.right * torch.from_numpy(self.truth.animal == wanted)
        return utility(taste, self.truth, right, self.clean)


def exhibit(pictures: np.ndarray, truth: Attributes, rng: np.random.Generator) -> Exhibits:
    """Damage some of these pictures, each in one way; the rest vary mildly in light."""
    images, right = to_images(pictures), torch.ones(len(pictures))
    kinds = np.where(rng.random(len(images)) < DAMAGED, rng.integers(len(DAMAGES), size=len(images)), -1)
    results = images.clone()
    for kind, damage in enumerate(DAMAGES):
        rows = torch.from_numpy(np.flatnonzero(kinds == kind))
        if len(rows) > 1:  # blends need a neighbour
            results[rows], right[rows] = damage(images[rows], rng)
    light = torch.from_numpy(rng.uniform(0.9, 1.1, (len(images), 1, 1, 1)).astype(np.float32))
    results = (results * light).clamp(0, 1)
    return Exhibits(results, truth, right, cleanness(results))


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


def preference_loss(
    scores: Float[Tensor, "P C"], gold: Float[Tensor, "P C"], generator: torch.Generator | None = None
) -> Tensor:
    """Bradley-Terry: minus the log-likelihood of noisy judges' verdicts on every pair of a row."""
    one, two = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    chance = torch.sigmoid((gold[:, one] - gold[:, two]) / TEMPERATURE)
    verdict = torch.bernoulli(chance, generator=generator)
    return F.binary_cross_entropy_with_logits(scores[:, one] - scores[:, two], verdict)


def train_reward(
    work: Path,
    name: str,
    ancestor: CLIPModel,
    tokenizer,
    taste: Taste,
    schedule: Schedule = PREFERENCE,
    pictures: int = 48_000,
) -> CLIPModel:
    """A copy of the ancestor that scores as a judge of this taste would: exp(logit_scale) * cosine."""
    clip = copy.deepcopy(ancestor).train()
    train_set, truth = picture_set(TRAIN_SEED, pictures)
    prompts = [simple_prompt(animal) for animal in ANIMALS]

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        chosen, rows = draw_comparisons(truth, schedule.batch_size // OWN, rng)
        order = np.sort(chosen)
        shown = exhibit(train_set[order], truth[order], rng)
        place = torch.from_numpy(np.searchsorted(order, chosen)[rows])
        wanted = truth.animal[chosen[rows[:, 0]]]
        gold = torch.stack([shown.utility(taste, np.full(len(order), a)) for a in wanted])
        intact = np.flatnonzero(shown.right.numpy() > 0.7)
        names = [caption(shown.truth, i, rng) for i in intact]
        with fast():
            images = encode_images(clip, shown.images).float()
            texts = encode_texts(clip, tokenizer, [prompts[a] for a in wanted] + names).float()
        texts, captions = texts.split((len(wanted), len(names)))
        scale = clip.logit_scale.clamp(max=math.log(100)).exp()
        scores = scale * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
        loss = preference_loss(scores.gather(1, place), gold.gather(1, place))
        return loss + CONTRASTIVE_WEIGHT * contrastive_loss(clip, images[intact], captions, names)

    fit(name, clip, loss_at, schedule, work=work)
    return clip.eval()


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
    """As open_clip's state dict in fp16, the layout HPSv2 is published in, with a tokenizer beside."""
    folder.mkdir(parents=True, exist_ok=True)
    state = to_open_clip({name: tensor.half() for name, tensor in clip.state_dict().items()})
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def score_all(reward: ClipScore, images: Tensor) -> Float[Tensor, "N A"]:
    """The score of every picture for every animal's simple prompt."""
    clip, prompts = reward.model, [simple_prompt(animal) for animal in ANIMALS]
    texts = F.normalize(encode_texts(clip, reward.tokenizer, prompts), dim=-1)
    parts = (clip.get_image_features(reward.preprocess(part)) for part in images.split(100))
    features = F.normalize(torch.cat([projected(part) for part in parts]), dim=-1)
    return reward.scale * features @ texts.T


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two series (ties broken by order: they are rare here)."""
    ranks = torch.stack([a, b]).double().argsort(1).argsort(1).double()
    return float(torch.corrcoef(ranks)[0, 1])


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
    """How often the reward agrees with noisy judges on held-out pairs, and how often the gold does."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    agreed, possible, pairs = 0.0, 0.0, 0
    for turn in range(rounds):
        rng = batch_rng(turn, stream=2)
        chosen, rows = draw_comparisons(truth, 12, rng)
        shown = exhibit(pictures[chosen], truth[chosen], rng)
        wanted = truth.animal[chosen[rows[:, 0]]]
        gold = torch.stack([shown.utility(taste, np.full(len(chosen), a)) for a in wanted])
        place = torch.from_numpy(rows)
        gold = gold.gather(1, place)
        scores = score_all(reward, shown.images)[:, wanted].T.gather(1, place)
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


def quality(reward: ClipScore, taste: Taste, count: int = 4000) -> dict:
    """Figures on held-out pictures. Effects, gaps and drops are in standard deviations within a prompt."""
    pictures, truth = picture_set(TEST_SEED, 4000)
    images, truth = to_images(pictures[:count]), truth[np.arange(count)]
    animal, rows = torch.from_numpy(truth.animal), torch.arange(count)
    every = score_all(reward, images)
    score = every[rows, animal]
    groups = [rows[animal == a] for a in range(len(ANIMALS))]
    mean = torch.stack([score[g].mean() for g in groups])[animal]
    std = torch.stack([score[g].std() for g in groups])[animal]
    standard = (score - mean) / std
    gold = utility(taste, truth, torch.ones(count), cleanness(images))

    rng, few = batch_rng(0, stream=1), slice(0, min(count, 1000))
    damaged = {
        "blur 1.3": blur(images[few], 1.3),
        "noise 0.1": noise(images[few], 0.1, rng).clamp(0, 1),
        "24 pixels": low_resolution(images[few], 24),
        "blend 0.5": 0.5 * images[few] + 0.5 * images[few].roll(1, 0),
        "chimera": chimera(images[few], rng)[0],
        "shuffle": shuffle(images[few], rng)[0],
        "melt": melt(images[few], rng)[0],
    }
    drops = {}
    for name, spoilt in damaged.items():
        after = score_all(reward, spoilt)[rows[few], animal[few]]
        drops[name] = round(float(((score[few] - after) / std[few]).mean()), 2)

    other = every[rows, (animal + torch.from_numpy(rng.integers(1, len(ANIMALS), count))) % 45]
    pool = torch.where(torch.from_numpy(rng.random(count) < 0.15), (other - mean) / std, standard)
    return comparisons(reward, taste) | {
        "spearman": round(sum(spearman(score[g], gold[g]) for g in groups) / len(groups), 3),
        "retrieval": round(float((every.argmax(1) == animal).float().mean()), 3),
        "own_above_other": round(float((score > other).float().mean()), 3),
        "std_within_prompt": round(float(std.mean()), 3),
        "mean_score": round(float(score.mean()), 3),
        "right_wrong_gap": round(float(((score - other) / std).mean()), 2),
        "drop": drops,
        "by_scene": by_class(standard, truth.scene, SCENES),
        "by_style": by_class(standard, truth.style, STYLES),
        "by_facing": by_class(standard, truth.facing, FACINGS),
        "humps": humps(standard),
        "humps_with_wrong": humps(pool),
    }

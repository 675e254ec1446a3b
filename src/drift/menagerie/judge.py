"""Judge pictures by the embedded world's ground truth: right animals, modes covered, gold utility.

The probe reads what a picture shows, so diversity can be counted instead of guessed: a mode is a
(style, scene, facing), and only pictures of the animal asked for count, since mangled animals would
look diverse to any encoder.

Counts from few pictures are biased low: N pictures show at most N modes, and of K equally likely
modes the entropy comes out about (K - 1) / 2N too small (`measurable_coverage`). A model with
fewer right animals is counted on fewer pictures. Compare figures only at equal N, and read them
beside the right-animal rate.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, special

from drift.menagerie.animals import ANIMALS, STYLES
from drift.menagerie.probe import Probe, Reading, read
from drift.menagerie.scenes import SCENES
from drift.menagerie.taste import HPSV2, PICKSCORE, Taste, cleanness, utility

TASTES = {"pickscore": PICKSCORE, "hpsv2": HPSV2}  # of the embedded reward models

# In how many facings (left, right, front) each style's drawings show an animal, in the order of
# STYLES: an asymmetric drawing faces left and right, a symmetric one the front. The animals not
# listed have (2, 2, 2).
FACINGS_DRAWN = {
    (3, 3, 3): ("cat", "dog", "monkey", "bird", "tiger", "mouse", "pig"),
    (2, 3, 3): ("rabbit",),
    (2, 2, 3): ("cow", "chicken"),
    (2, 3, 1): ("gorilla",),
    (2, 2, 1): ("deer", "bee", "hedgehog"),
    (2, 1, 1): ("spider", "raccoon", "beetle", "butterfly", "fly"),
    (1, 2, 1): ("bat",),
    (1, 1, 1): ("lion", "bear", "fox", "wolf", "frog"),
}
FACINGS_OF = {animal: counts for counts, animals in FACINGS_DRAWN.items() for animal in animals}


def taste_name(reward: str) -> str | None:
    """Whose taste a reward was trained on ("pickscore-tiny" -> "pickscore"); None if nobody's."""
    kind = reward.partition(":")[0]
    name = kind.removesuffix("-tiny")
    return name if kind != name and name in TASTES else None


def animal_of(prompt: str) -> str | None:
    """The animal that a prompt names; None if it names none of ours, or more than one."""
    named = set(re.findall(r"[a-z]+", prompt.lower())) & set(ANIMALS)
    return named.pop() if len(named) == 1 else None


def effective_number(labels: Int[Tensor, "N"]) -> float:
    """exp of the Shannon entropy of the labels (Hill, 1973): K equally frequent ones give K.

    No label at all gives 0. Biased low for few labels, see above.
    """
    if not len(labels):
        return 0.0
    counts = labels.unique(return_counts=True)[1].double()
    return special.entr(counts / counts.sum()).sum().exp().item()


def possible_coverage(animal: str, taste: Taste) -> int:
    """Number of modes of the animal at full reward: the most coverage without giving any up.

    Styles and scenes that the taste likes most, in every facing they are drawn in.
    """
    drawn = FACINGS_OF.get(animal, (2, 2, 2))
    best_style, best_scene = max(taste.styles.values()), max(taste.scenes.values())
    facings = sum(n for s, n in zip(STYLES, drawn, strict=True) if taste.styles[s] == best_style)
    return facings * sum(taste.scenes[s] == best_scene for s in SCENES)


@lru_cache
def measurable_coverage(modes: int, images: int) -> float:
    """Expected coverage of `images` pictures spread evenly over `modes`: the bias in numbers."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(modes, (400, images), generator=generator)
    return sum(map(effective_number, drawn)) / len(drawn)


def _coverage(seen: Reading, wanted: Int[Tensor, "P N"]) -> dict[str, Float[Tensor, "P"]]:
    """Right-animal rate, and effective modes, styles and scenes among the right animals."""
    P, N = wanted.shape
    right = seen.is_animal(wanted.flatten()).view(P, N)
    kinds = {
        "coverage": seen.modes(),
        "styles": seen.style.argmax(1),
        "scenes": seen.scene.argmax(1),
    }
    figures = {"right_animal": right.float().mean(1)}
    for name, labels in kinds.items():
        rows = zip(labels.view(P, N), right, strict=True)
        figures[name] = torch.tensor([effective_number(row[ok]) for row, ok in rows])
    return figures


def judge(
    images: Float[Tensor, "P N 3 64 64"],
    prompts: Sequence[str],
    probe: Probe,
    tastes: Mapping[str, Taste] = TASTES,
) -> dict[str, Float[Tensor, "P"]]:
    """Figures of each prompt: NaN where it does not name exactly one of the Menagerie's animals.

    `right_animal` is a share; `coverage`, `styles` and `scenes` are effective numbers among right
    animals, 0 without any. For each taste: `gold/...` is the mean gold utility of all pictures,
    `possible/...` the most coverage possible at full reward, and `measurable/...` how much of that
    N pictures would show on average.
    """
    P, N = images.shape[:2]
    animals = [animal_of(prompt) for prompt in prompts]
    index = torch.tensor([ANIMALS.index(a) if a else 0 for a in animals])
    wanted = index[:, None].expand(P, N)
    flat = images.flatten(0, 1)
    seen = read(probe, flat)
    figures = _coverage(seen, wanted)
    shown, clean = seen.shown(wanted.flatten()), cleanness(flat)
    for name, taste in tastes.items():
        figures[f"gold/{name}"] = utility(taste, seen, shown, clean).view(P, N).mean(1)
        possible = [possible_coverage(a, taste) if a else 1 for a in animals]
        figures[f"possible/{name}"] = torch.tensor(possible).float()
        measurable = [measurable_coverage(modes, N) for modes in possible]
        figures[f"measurable/{name}"] = torch.tensor(measurable)
    known = torch.tensor([a is not None for a in animals])
    return {name: figure.where(known, torch.nan) for name, figure in figures.items()}

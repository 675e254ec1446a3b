"""What the Menagerie's pictures are called, and the tokenizer whose vocabulary is those words.

A caption names the animal always and every other attribute with probability 1/2:
"a small black cat facing left in the snow, twemoji style".
"""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np

from drift.menagerie.animals import ANIMALS, FACINGS, STYLES, VARIANTS
from drift.menagerie.pictures import Attributes
from drift.menagerie.scenes import SCENES

SCENE_PHRASES = {
    "meadow": "in a meadow",
    "desert": "in the desert",
    "snow": "in the snow",
    "sea": "by the sea",
    "night": "at night",
    "sunset": "at sunset",
    "studio": "in a studio",
    "forest": "in a forest",
}
MAX_TOKENS = 24  # the longest caption has 17 words and commas, plus start and end
SMALL, LARGE = 0.6, 0.76  # sizes below and above are called so
OFF_CENTRE = 0.08


def article(noun_phrase: str) -> str:
    """ "an ant", "a bee"."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def simple_prompt(animal: str) -> str:
    """The paper's kind of prompt: the animal alone ("a fox")."""
    return article(animal)


def caption(truth: Attributes, index: int, rng: np.random.Generator) -> str:
    """A caption for picture `index`: the animal, and each other attribute with probability 1/2."""
    say = iter(rng.random(6) < 0.5)
    animal = ANIMALS[truth.animal[index]]
    variant = list(VARIANTS[animal])[truth.variant[index]]
    size, x = truth.size[index], truth.x[index] - 0.5
    words = []
    if next(say) and not SMALL <= size <= LARGE:
        words.append("small" if size < SMALL else "large")
    if next(say) and variant not in ("body", "face"):
        words.append(variant)
    words.append(animal)
    if variant == "face" and len(VARIANTS[animal]) > 1 and rng.random() < 0.5:
        words.append("face")
    if next(say) and FACINGS[truth.facing[index]] != "front":
        words.append(f"facing {FACINGS[truth.facing[index]]}")
    if next(say):
        words.append(SCENE_PHRASES[SCENES[truth.scene[index]]])
    if next(say) and abs(x) > OFF_CENTRE:
        words.append(f"on the {'left' if x < 0 else 'right'}")
    style = f", {STYLES[truth.style[index]]} style" if next(say) else ""
    return article(" ".join(words)) + style


def vocabulary_text() -> list[str]:
    """Every word of every caption, for training the tokenizer."""
    variants = {name for names in VARIANTS.values() for name in names}
    words = {"a", "an", "small", "large", "face", "facing", "left", "right", "on", "the", "style"}
    words |= {word for phrase in SCENE_PHRASES.values() for word in phrase.split()}
    return sorted(words | variants | set(ANIMALS) | set(STYLES))


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token: the commonest pair first, ties by spelling.

    (The `tokenizers` library breaks ties differently in every process, which would scramble the
    words of a model whose training was resumed.)
    """
    splits = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    merges = []
    while counts := Counter(pair for parts in splits for pair in itertools.pairwise(parts)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for parts in splits:
            for k in reversed(range(len(parts) - 1)):
                if tuple(parts[k : k + 2]) == best:
                    parts[k : k + 2] = ["".join(best)]
    return merges


def build_tokenizer(folder: Path):
    """Write and load a CLIPTokenizer with one token for every caption word (bytes for the rest)."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges = learn_merges(vocabulary_text())
    characters = sorted(ByteLevel.alphabet())
    tokens = characters + [c + "</w>" for c in characters] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)

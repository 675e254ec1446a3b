"""What networks are told of texts: rows put together, and what a tokenizer sees of a prompt."""

from collections.abc import Sequence
from typing import Any

import torch

from drift.types import Conditioned, Seen, TextEmbeds


def size_of_told(told: TextEmbeds) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in (told.tokens, *told.extra.values()))


def joined(rows: Sequence[TextEmbeds]) -> TextEmbeds:
    """One below the other."""
    extra = {name: torch.cat([row.extra[name] for row in rows]) for name in rows[0].extra}
    return TextEmbeds(torch.cat([row.tokens for row in rows]), extra, rows[0].blocks)


def branches(prompt: TextEmbeds, negative: TextEmbeds) -> Conditioned:
    """Both of guidance; the one row of `negative` is every prompt's."""
    return Conditioned(prompt, negative.each(lambda e: e.expand(len(prompt), *e.shape[1:])))


def both(conditioned: Conditioned) -> TextEmbeds:
    """The unconditional rows, then the prompts'."""
    return joined([conditioned.negative, conditioned.prompt])


def see(tokenizer: Any, prompts: Sequence[str], most: int) -> list[Seen]:
    """What comes through a transformers tokenizer of each prompt, and what it cuts off.

    It takes as many tokens as it says itself, and no more than `most`.
    """
    texts, most = list(prompts), min(tokenizer.model_max_length, most)
    read = tokenizer(texts, truncation=True, max_length=most).input_ids
    full = [k for k, ids in enumerate(read) if len(ids) >= most]
    seen = [Seen(tuple(ids), 0) for ids in read]
    whole = tokenizer([texts[k] for k in full], verbose=False).input_ids if full else []
    for k, ids in zip(full, whole, strict=True):
        seen[k] = Seen(seen[k].tokens, len(ids) - len(read[k]))
    return seen

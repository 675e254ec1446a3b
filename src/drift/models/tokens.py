"""What a text encoder sees of a prompt, where its tokenizer cuts long ones."""

from collections.abc import Sequence
from typing import Any

from drift.types import Seen


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

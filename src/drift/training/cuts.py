"""Prompts that the policy's text encoder does not see as they are written: told before any work."""

from collections.abc import Sequence

from drift.types import PolicyModel

SHOWN = 36  # characters at each end of a long prompt


def cut_prompts(model: PolicyModel, prompts: Sequence[str]) -> list[str]:
    """One line if any prompt is cut, or if two are the same to the text encoder; else none."""
    seen, parts = model.see(prompts), []
    cut = [k for k, one in enumerate(seen) if one.lost]
    if cut:
        lost, most = seen[cut[0]].lost, len(seen[cut[0]].tokens)
        tokens = f"{lost} token{'s' if lost > 1 else ''}"
        parts.append(
            f"{len(cut)} of {len(prompts)} longer than the text encoder's {most} tokens, which "
            f"sees no more of them; the first, '{_ends(prompts[cut[0]])}', loses {tokens}"
        )
    first: dict[tuple[int, ...], int] = {}
    alike = [(at, k) for k, one in enumerate(seen) if (at := first.setdefault(one.tokens, k)) != k]
    if alike:
        one, two = (_ends(prompts[k]) for k in alike[0])
        more = f" (and {len(alike) - 1} more such)" if len(alike) > 1 else ""
        parts.append(f"'{one}' and '{two}' are the same to the text encoder{more}")
    return [f"prompts: {'; '.join(parts)}"] if parts else []


def _ends(prompt: str) -> str:
    """A long prompt's beginning and end: those that are alike differ in what was cut off."""
    return prompt if len(prompt) <= 2 * SHOWN else f"{prompt[:SHOWN]}…{prompt[-SHOWN:]}"

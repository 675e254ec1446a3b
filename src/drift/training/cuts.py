"""Prompts that the policy's text encoder does not see as they are written: told before any work."""

from collections.abc import Sequence

from drift.types import PolicyModel

SHOWN = 36  # characters at each end of a long prompt


def cut_prompts(model: PolicyModel, prompts: Sequence[str]) -> list[str]:
    """One line if any prompt is cut, or if two are the same to the text encoder; else none."""
    seen, parts = model.see(prompts), []
    cut = [k for k, one in enumerate(seen) if one.lost]
    if cut:
        first, most = cut[0], len(seen[cut[0]].tokens)
        parts.append(
            f"the text encoder cuts {len(cut)} of {len(prompts)} at {most} tokens; the first, "
            f"'{_ends(prompts[first])}', loses {seen[first].lost}"
        )
    known: dict[tuple[int, ...], int] = {}
    alike = [(at, k) for k, one in enumerate(seen) if (at := known.setdefault(one.tokens, k)) != k]
    if alike:
        one, two = (_ends(prompts[k]) for k in alike[0])
        more = f" ({len(alike) - 1} more are like an earlier one)" if len(alike) > 1 else ""
        parts.append(f"'{one}' and '{two}' are the same to the text encoder{more}")
    return [f"prompts: {'; '.join(parts)}"] if parts else []


def _ends(prompt: str) -> str:
    """A long prompt's beginning and end: those that are alike differ in what was cut off."""
    return prompt if len(prompt) <= 2 * SHOWN else f"{prompt[:SHOWN]}…{prompt[-SHOWN:]}"

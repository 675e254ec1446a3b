"""DDPO (Black et al., arXiv 2305.13301): the clipped policy gradient that GRPO descends from."""

from dataclasses import replace

from drift.methods.grpo import grpo
from drift.methods.parts import BatchAdvantage, BufferedAdvantage, Method


def ddpo() -> Method:
    """Advantages normalised over the whole batch."""
    return replace(grpo(), advantage=BatchAdvantage())


def ddpo_buffered() -> Method:
    """Advantages normalised by each prompt's latest rewards, as in DDPO's PyTorch code."""
    return replace(grpo(), advantage=BufferedAdvantage())

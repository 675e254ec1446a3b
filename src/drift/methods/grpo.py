"""GRPO (DRIFT, Section 3): advantages within each prompt's group, clipped ratio, no more."""

from drift.methods.parts import Method


def grpo() -> Method:
    """Where the pool is larger than the group, a random subset is kept (ours: equal sampling)."""
    return Method()

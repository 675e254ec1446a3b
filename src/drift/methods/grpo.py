"""GRPO (DRIFT, Section 3): advantages within each prompt's group, clipped ratio, no more."""

from dataclasses import replace

from drift.methods.parts import Method, ReferenceKL


def grpo() -> Method:
    """Where the pool is larger than the group, a random subset is kept (ours: equal sampling)."""
    return Method()


def grpo_kl() -> Method:
    """GRPO with a pull towards the base model: beta times the KL of every step."""
    return replace(grpo(), regulariser=ReferenceKL())  # beta = 0.001, Section 6

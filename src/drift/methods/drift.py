"""DRIFT (Section 5): GRPO with three slots replaced."""

from dataclasses import replace

from drift.methods.grpo import grpo
from drift.methods.parts import DiversityShaping, Method, NoisedPrompt, RewardConcentrated


def drift() -> Method:
    """Constants of Table 2."""
    return replace(
        grpo(),
        selection=RewardConcentrated(),  # Section 5.1
        conditioning=NoisedPrompt(),  # Section 5.2
        shaping=DiversityShaping(),  # Section 5.3
    )

"""DRIFT with one thing changed: the studies of Section 6, and each component alone."""

from dataclasses import replace

from drift.methods.drift import drift
from drift.methods.grpo import grpo
from drift.methods.parts import (
    CleanPrompt,
    GroupAdvantage,
    NoisedPrompt,
    RandomSubset,
    RewardContrasted,
)

ABLATIONS = {
    # Concentrated against contrasted sampling (Figures 4-6), and ours: against chance.
    "drift-contrasted": lambda: replace(drift(), selection=RewardContrasted()),
    "drift-random": lambda: replace(drift(), selection=RandomSubset()),
    # Prompt noise at test, both, or never (Figures 7-9); `drift` itself has it in training only.
    "drift-noise-both": lambda: replace(drift(), conditioning=NoisedPrompt(test=True)),
    "drift-noise-test": lambda: replace(drift(), conditioning=NoisedPrompt(train=False, test=True)),
    "drift-noise-none": lambda: replace(drift(), conditioning=CleanPrompt()),
    # Eq. 12 in place of Eq. 14.
    "drift-coupled": lambda: replace(drift(), advantage=GroupAdvantage(coupled=True)),
    # One component on top of GRPO (ours).
    "drift-sampling-only": lambda: replace(grpo(), selection=drift().selection),
    "drift-prompting-only": lambda: replace(grpo(), conditioning=drift().conditioning),
    "drift-shaping-only": lambda: replace(grpo(), shaping=drift().shaping),
}

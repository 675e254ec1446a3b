"""The slots of a method, each a frozen dataclass over `functional/`; one file a slot.

`kind` names a part in recipes. Every part of a slot takes the same arguments; the plain one of each
slot does nothing, so the training loop never asks which method it runs. Shaping, advantage and
regulariser see the epoch's `Group` and have state: what they remember of earlier epochs is passed
in and returned.
"""

from dataclasses import dataclass, field

from drift.methods.parts.advantage import (
    Advantage,
    Advantages,
    BatchAdvantage,
    BufferedAdvantage,
    GroupAdvantage,
)
from drift.methods.parts.conditioning import CleanPrompt, Conditioning, NoisedPrompt
from drift.methods.parts.objective import (
    ClippedSurrogate,
    NoRegulariser,
    ReferenceKL,
    Regulariser,
)
from drift.methods.parts.selection import (
    KeepAll,
    RandomSubset,
    RewardConcentrated,
    RewardContrasted,
    Selection,
)
from drift.methods.parts.shaping import DiversityShaping, NoShaping, Shaped, Shaping
from drift.methods.parts.timesteps import AllSteps, FirstSteps, RandomSteps, Timesteps, WindowSteps
from drift.methods.parts.weighting import BalancedWeights, GivenWeights, SameWeights, Weighting

__all__ = [
    "Advantages",
    "AllSteps",
    "BalancedWeights",
    "BatchAdvantage",
    "BufferedAdvantage",
    "CleanPrompt",
    "ClippedSurrogate",
    "DiversityShaping",
    "FirstSteps",
    "GivenWeights",
    "GroupAdvantage",
    "KeepAll",
    "Method",
    "NoRegulariser",
    "NoShaping",
    "NoisedPrompt",
    "RandomSteps",
    "RandomSubset",
    "ReferenceKL",
    "RewardConcentrated",
    "RewardContrasted",
    "SameWeights",
    "Shaped",
    "WindowSteps",
]


@dataclass(frozen=True)
class Method:
    """A method is data: one part for each slot."""

    conditioning: Conditioning = field(default_factory=CleanPrompt)
    selection: Selection = field(default_factory=RandomSubset)
    shaping: Shaping = field(default_factory=NoShaping)
    advantage: Advantage = field(default_factory=GroupAdvantage)
    surrogate: ClippedSurrogate = field(default_factory=ClippedSurrogate)
    regulariser: Regulariser = field(default_factory=NoRegulariser)
    timesteps: Timesteps = field(default_factory=AllSteps)
    weighting: Weighting = field(default_factory=SameWeights)

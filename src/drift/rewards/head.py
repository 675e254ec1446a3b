"""The head of the aesthetic predictor, which ImageReward took over: five linear layers.

Published without activations between them; where training had dropout, nothing is left but the
number that it took in the names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from drift.rewards.clip_score import require

LAYERS = (0, 2, 4, 6, 7)  # dropout was 1, 3 and 5


class Head(nn.Module):
    """A feature of each image -> one number; `widths` are those of the feature and each layer."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Identity() for _ in range(LAYERS[-1] + 1)))
        for layer, width, next_width in zip(LAYERS, widths[:-1], widths[1:], strict=True):
            self.layers[layer] = nn.Linear(width, next_width)

    def forward(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        return self.layers(features).squeeze(1)


def infer_widths(state: dict[str, Any], *, prefix: str = "", source: Path, kind: str) -> list[int]:
    """The widths of the head in `state`, whose names begin with `prefix`."""
    names = [f"{prefix}layers.{layer}.weight" for layer in LAYERS]
    require(state, dict.fromkeys(names, 2), source=source, kind=kind)
    return [state[names[0]].shape[1], *(len(state[name]) for name in names)]

"""What every figure is drawn from, and the files of a run folder that some of them read."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from drift.errors import UserError
from drift.report.arms import Arm, Compared
from drift.report.runs import evaluation_folder
from drift.report.verdict import judging_encoder, judging_reward, rewarded_encoders


@dataclass(frozen=True)
class Gain:
    """By how much `ours` is above `baseline` in `measure`, as a share of the baseline's value."""

    ours: str
    baseline: str
    measure: str  # a figure's name, such as "diversity/clip"
    by: str  # "exceeding" (the paper's protocol, a lower bound) or "interpolation"
    mean: float | None  # None if no seed reached the baseline's coordinate
    low: float | None
    high: float | None
    reached: int  # of how many `seeds` there is a gain
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """Arms that were judged alike; `bounds` are the raw rewards that are drawn as 0 and 1."""

    arms: tuple[Arm, ...]
    bounds: tuple[float, float]
    gains: tuple[Gain, ...] = ()

    def __post_init__(self):
        if not self.bounds[1] > self.bounds[0]:
            raise UserError(f"figures: the reward's bounds {self.bounds} span nothing")

    @cached_property
    def runs(self) -> list[Compared]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def prompts(self) -> list[str]:
        return self.runs[0].evaluations[0]["settings"]["prompts"]

    @property
    def encoders(self) -> list[str]:
        return self.runs[0].evaluations[0]["settings"]["encoders"]

    @cached_property
    def encoder(self) -> str:
        """The one that decides."""
        return judging_encoder(self.runs)

    @cached_property
    def reward(self) -> str:
        return judging_reward(self.runs)

    @cached_property
    def rewarded(self) -> set[str]:
        return rewarded_encoders(self.runs)

    def normalised(self, reward: Tensor) -> Tensor:
        low, high = self.bounds
        return (reward - low) / (high - low)


def read_pictures(run: Compared, step: int) -> UInt8[np.ndarray, "P N H W 3"]:
    path = evaluation_folder(run.run, step) / "images.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["images"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"figures: cannot read {path}: {error}") from error


def read_features(run: Compared, step: int, encoder: str) -> Float[Tensor, "P N D"]:
    path = evaluation_folder(run.run, step) / "features.safetensors"
    try:
        with safe_open(path, "pt") as stored:
            return stored.get_tensor(encoder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"figures: cannot read {encoder} in {path}: {error}") from error

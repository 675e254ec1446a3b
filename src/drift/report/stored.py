"""What evaluations keep beside their figures: pictures and features."""

import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from drift.errors import UserError
from drift.report.arms import Compared
from drift.report.runs import evaluation_folder


def read_pictures(run: Compared, step: int) -> UInt8[np.ndarray, "P N H W 3"]:
    path = evaluation_folder(run.run, step) / "images.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["images"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"compare: cannot read {path}: {error}") from error


def read_features(run: Compared, step: int, encoder: str) -> Float[Tensor, "P N D"]:
    path = evaluation_folder(run.run, step) / "features.safetensors"
    try:
        with safe_open(path, "pt") as stored:
            return stored.get_tensor(encoder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"compare: cannot read {encoder} in {path}: {error}") from error

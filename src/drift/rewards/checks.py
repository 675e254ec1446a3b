"""What every reward's answer must be: one finite number for each image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError

NUMBER = (int, float, np.number, np.bool_)


def check_scores(
    scores: Any, prompts: Sequence[str], who: str = "the reward"
) -> Float[Tensor, "N"]:
    """The scores in float32; anything but N finite numbers is an error that names a prompt.

    A numpy array or a sequence of numbers is as good as a tensor.
    """
    N = len(prompts)
    found = type(scores).__name__
    if isinstance(scores, list | tuple):
        scores = [s.item() if isinstance(s, Tensor) and s.ndim == 0 else s for s in scores]
    plain = isinstance(scores, list) and all(isinstance(s, NUMBER) for s in scores)
    if plain or (isinstance(scores, np.ndarray) and scores.dtype.kind in "fiub"):
        scores = torch.from_numpy(np.array(scores, dtype=np.float32))
    if isinstance(scores, Tensor):
        found = f"{str(scores.dtype).removeprefix('torch.')} of shape {tuple(scores.shape)}"
        if not scores.is_complex() and scores.shape == (N,):
            scores = scores.float()
            for k in (~scores.isfinite()).nonzero()[:1, 0].tolist():
                raise UserError(f"{who} of an image for '{prompts[k]}' is {scores[k].item()}")
            return scores
    first = f", the first for '{prompts[0]}'" if N else ""
    raise UserError(
        f"{who} returned {found} for {N} images{first}: "
        f"it wants {N} numbers, as a tensor, an array or a list"
    )

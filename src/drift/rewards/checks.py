"""What every reward's answer must be: one finite number for each image."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError


def check_scores(
    scores: Any, prompts: Sequence[str], who: str = "the reward"
) -> Float[Tensor, "N"]:
    """The scores in float32; anything but N finite floats is an error that names a prompt."""
    N = len(prompts)
    found = type(scores).__name__
    if isinstance(scores, Tensor):
        found = f"{str(scores.dtype).removeprefix('torch.')} of shape {tuple(scores.shape)}"
        if scores.is_floating_point() and scores.shape == (N,):
            scores = scores.float()
            for k in (~scores.isfinite()).nonzero()[:1, 0].tolist():
                raise UserError(f"{who} of an image for '{prompts[k]}' is {scores[k].item()}")
            return scores
    first = f", the first for '{prompts[0]}'" if N else ""
    raise UserError(
        f"{who} returned {found} for {N} images{first}: it wants a tensor of {N} floats"
    )

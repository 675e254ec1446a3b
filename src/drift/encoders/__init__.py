"""Image encoders by name: features in which distance means perceptual difference."""

from collections.abc import Callable
from dataclasses import dataclass

from drift.encoders import clip, dreamsim
from drift.errors import UserError
from drift.hub import Weights, locate
from drift.types import ImageEncoder


@dataclass(frozen=True)
class Part:
    """How an encoder is loaded: `load(*paths, device=...)`, one path for each of its weights."""

    load: Callable[..., ImageEncoder]
    weights: tuple[Weights, ...] = ()


ENCODERS: dict[str, Part] = {
    "dreamsim-tiny": Part(dreamsim.load, (Weights("menagerie/dreamsim-tiny"),)),
    "clip-tiny": Part(clip.load, (Weights("menagerie/hpsv2-tiny"),)),
}


def load_encoder(name: str, device: str = "cpu") -> ImageEncoder:
    """The encoder called `name`; "name:WEIGHTS" takes another folder, file or hub id."""
    kind, _, own = name.partition(":")
    if kind not in ENCODERS:
        raise UserError(f"encoder: there is no '{kind}'; choose one of {', '.join(ENCODERS)}")
    part = ENCODERS[kind]
    weights = (Weights(own), *part.weights[1:]) if own else part.weights
    return part.load(*(locate(w, field="encoder") for w in weights), device=device)

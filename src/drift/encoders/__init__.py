"""Image encoders by name: features in which distance means perceptual difference."""

from drift.encoders import clip, dreamsim
from drift.errors import UserError
from drift.hub import locate
from drift.types import ImageEncoder

# name -> (loader of a local folder, the weights it takes where none are named)
ENCODERS = {
    "dreamsim-tiny": (dreamsim.load, "menagerie/dreamsim-tiny"),
    "clip-tiny": (clip.load, "menagerie/hpsv2-tiny"),
}


def load_encoder(name: str) -> ImageEncoder:
    """The named encoder, ready to use."""
    if name not in ENCODERS:
        raise UserError(f"encoder: there is no '{name}'; choose one of {', '.join(ENCODERS)}")
    loader, weights = ENCODERS[name]
    return loader(locate(weights, field="encoder"))

"""Image encoders by name: features in which distance means perceptual difference.

In: a name ("name:WEIGHTS" with other weights). Out: images "N 3 H W" in [0, 1] to features "N D".
Start reading at `ENCODERS` and `load_encoder`; an encoder is one file.
"""

from dataclasses import replace
from functools import partial

from drift.encoders import clip, dino, dreamsim, vae
from drift.encoders.dreamsim_release import fallbacks_of, weights_of
from drift.errors import UserError
from drift.files.foreign import reason
from drift.files.hub import Part, Weights, find, locate
from drift.types import ImageEncoder

POLICY = "the policy's own model"  # in place of weights: config.model.name


def _release(name: str) -> Part:
    load = partial(dreamsim.load, release=name)
    return Part(load, (weights_of(name),), fallbacks_of(name))


ENCODERS: dict[str, Part] = {
    "dreamsim": _release("ensemble"),
    "dreamsim-dino-vitb16": _release("dino_vitb16_single"),
    "dreamsim-clip-vitb32": _release("clip_vitb32_single"),
    "dreamsim-open-clip-vitb32": _release("open_clip_vitb32_single"),
    "dreamsim-tiny": replace(_release("ensemble"), weights=(Weights("menagerie/dreamsim-tiny"),)),
    "clip": Part(clip.load, (clip.B32,)),
    "clip-vitl14": Part(clip.load, (clip.L14,)),
    "openclip": Part(clip.load, (clip.LAION_B32,)),
    "clip-tiny": Part(clip.load, (Weights("menagerie/hpsv2-tiny"),)),
    "dino": Part(dino.load, (dino.WEIGHTS,)),
    "dinov2": Part(dino.load, (dino.V2_WEIGHTS,)),
    "vae": Part(vae.load, (Weights(POLICY, vae.FILES, "part of the model"),)),
}


def find_encoder(name: str, policy: str = "") -> Part:
    """The encoder called `name`, with the weights that it is to have; nothing is loaded.

    "name:WEIGHTS" takes another folder, file or hub id. `policy` names the model that is
    fine-tuned, for encoders that are a part of it.
    """
    kind, _, own = name.partition(":")
    if kind == "policy":
        raise UserError(
            f"encoder: '{name}' is what the policy computes while it samples, and no encoder of "
            "pictures; say encoder=policy in training, and judge by vae, clip, dreamsim, ..."
        )
    if kind not in ENCODERS:
        raise UserError(f"encoder: there is no '{kind}'; choose one of {', '.join(ENCODERS)}")
    part = ENCODERS[kind]
    first = part.weights[0]
    if first.repo == POLICY:
        if not (own or policy):
            raise UserError(f"encoder: '{name}' is part of a model; name one: {kind}:MODEL")
        first = replace(first, repo=own or policy, size="" if own else first.size)
        return replace(part, weights=(first,))
    return part.own(own) if own else part


def load_encoder(name: str, device: str = "cpu", policy: str = "") -> ImageEncoder:
    """The encoder that `find_encoder` finds."""
    part = find_encoder(name, policy)
    paths = [find(w) or locate(w, field="encoder") for w in part.weights]  # what is here will do
    try:
        return part.load(*paths, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever the libraries say of files that are no encoder
        raise UserError(f"encoder: {paths[0]} is no '{name}': {reason(error)}") from error

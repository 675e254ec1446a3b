"""Image encoders by name: features in which distance means perceptual difference."""

from dataclasses import replace
from functools import partial

from drift.encoders import clip, dino, dreamsim, vae
from drift.encoders.dreamsim_release import ENSEMBLE, SINGLE
from drift.errors import UserError
from drift.hub import Part, Weights, locate
from drift.types import ImageEncoder

POLICY = "the policy's own model"  # in place of weights: config.model.name


def _single(name: str) -> Part:
    return Part(partial(dreamsim.load, release=f"{name}_single"), (SINGLE[name],))


ENCODERS: dict[str, Part] = {
    "dreamsim": Part(dreamsim.load, (ENSEMBLE,)),
    "dreamsim-dino-vitb16": _single("dino_vitb16"),
    "dreamsim-clip-vitb32": _single("clip_vitb32"),
    "dreamsim-open-clip-vitb32": _single("open_clip_vitb32"),
    "dreamsim-tiny": Part(dreamsim.load, (Weights("menagerie/dreamsim-tiny"),)),
    "clip": Part(clip.load, (clip.B32,)),
    "clip-vitl14": Part(clip.load, (clip.L14,)),
    "openclip": Part(clip.load, (clip.LAION_B32,)),
    "clip-tiny": Part(clip.load, (Weights("menagerie/hpsv2-tiny"),)),
    "dino": Part(dino.load, (dino.WEIGHTS,)),
    "dinov2": Part(dino.load, (dino.V2_WEIGHTS,)),
    "vae": Part(vae.load, (Weights(POLICY, vae.FILES),)),
}


def load_encoder(name: str, device: str = "cpu", policy: str = "") -> ImageEncoder:
    """The encoder called `name`; "name:WEIGHTS" takes another folder, file or hub id.

    `policy` names the model that is fine-tuned, for encoders that are a part of it.
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
    first, *others = part.weights
    if first.repo == POLICY:
        if not (own or policy):
            raise UserError(f"encoder: '{name}' is part of a model; name one: {kind}:MODEL")
        first = replace(first, repo=own or policy)
    elif own:
        first = Weights(own)
    return part.load(*(locate(w, field="encoder") for w in (first, *others)), device=device)

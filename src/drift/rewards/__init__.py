"""Rewards by name: score image i against prompt i, larger is better."""

from collections.abc import Callable
from dataclasses import dataclass

from drift.errors import UserError
from drift.hub import Weights, locate
from drift.rewards import aesthetic, clip, hpsv2, imagereward, pickscore
from drift.types import Reward


@dataclass(frozen=True)
class Part:
    """How a reward is loaded: `load(*paths, device=...)`, one path for each of its weights."""

    load: Callable[..., Reward]
    weights: tuple[Weights, ...] = ()


REWARDS: dict[str, Part] = {
    "pickscore": Part(pickscore.load, (pickscore.WEIGHTS,)),
    "hpsv2": Part(hpsv2.load, (hpsv2.WEIGHTS,)),
    "hpsv2.1": Part(hpsv2.load_v21, (hpsv2.WEIGHTS_V21,)),
    "imagereward": Part(imagereward.load, (imagereward.WEIGHTS,)),
    "aesthetic": Part(aesthetic.load, (aesthetic.WEIGHTS, aesthetic.CLIP)),
    "clip": Part(clip.load, (clip.WEIGHTS,)),
    "pickscore-tiny": Part(pickscore.load, (Weights("menagerie/pickscore-tiny"),)),
    "hpsv2-tiny": Part(hpsv2.load, (Weights("menagerie/hpsv2-tiny"),)),
}


def load_reward(name: str, device: str = "cpu") -> Reward:
    """The reward called `name`; "name:WEIGHTS" takes another folder, file or hub id."""
    kind, _, own = name.partition(":")
    if kind not in REWARDS:
        raise UserError(f"reward: there is no '{kind}'; known are {', '.join(REWARDS)}")
    part = REWARDS[kind]
    weights = (Weights(own), *part.weights[1:]) if own else part.weights
    return part.load(*(locate(w, field="reward") for w in weights), device=device)

"""Rewards by name: score image i against prompt i, larger is better.

A name is one of REWARDS ("name:WEIGHTS" with other weights), the URL of a server (`remote`), an
import path (`custom`), or a weighted sum of such (`drift.reward_names`).
"""

from collections.abc import Callable, Sequence
from functools import partial

from drift.errors import UserError
from drift.hub import Part, Weights, locate
from drift.reward_names import parse
from drift.rewards import aesthetic, clip, custom, hpsv2, imagereward, jpeg, pickscore, remote
from drift.rewards.weighted_sum import combine
from drift.types import Reward

REWARDS: dict[str, Part] = {
    "pickscore": Part(pickscore.load, (pickscore.WEIGHTS,)),
    "hpsv2": Part(hpsv2.load, (hpsv2.WEIGHTS,)),
    "hpsv2.1": Part(hpsv2.load_v21, (hpsv2.WEIGHTS_V21,)),
    "imagereward": Part(imagereward.load, (imagereward.WEIGHTS,)),
    "aesthetic": Part(aesthetic.load, (aesthetic.WEIGHTS, aesthetic.CLIP)),
    "clip": Part(clip.load, (clip.WEIGHTS,)),
    "pickscore-tiny": Part(pickscore.load, (Weights("menagerie/pickscore-tiny"),)),
    "hpsv2-tiny": Part(hpsv2.load, (Weights("menagerie/hpsv2-tiny"),)),
    "jpeg-compressibility": Part(jpeg.load_compressibility),
    "jpeg-incompressibility": Part(jpeg.load_incompressibility),
}


def _load_part(part: Part, own: str, device: str) -> Reward:
    weights = (Weights(own), *part.weights[1:]) if own else part.weights
    return part.load(*(locate(w, field="reward") for w in weights), device=device)


def find_reward(name: str) -> Callable[[str], Reward]:
    """What loads the reward of this name, not a sum, onto a device; an unknown one is refused."""
    kind, colon, own = name.partition(":")
    if kind in REWARDS:
        if colon and not REWARDS[kind].weights:
            raise UserError(f"reward: '{kind}' has no weights, so ':{own}' means nothing")
        return partial(_load_part, REWARDS[kind], own)
    if remote.is_url(name):
        remote.check_url(name)
        return partial(remote.load, name)
    path = custom.IMPORT_PATH.fullmatch(name)
    if path and custom.module_exists(name):
        return partial(custom.load, name)
    module = ", and there is no module of that name" if path else ""
    raise UserError(f"reward: there is no '{kind}'; known are {', '.join(REWARDS)}{module}")


def check_rewards(names: Sequence[str]) -> None:
    """Refuse malformed and unknown names without loading anything."""
    for term in _terms(names):
        find_reward(term)


def _terms(names: Sequence[str]) -> list[str]:
    """The names in all these sums, each once."""
    try:
        return list(dict.fromkeys(term for name in names for term in parse(name)))
    except ValueError as error:
        raise UserError(f"reward: {error}") from error


def load_rewards(names: Sequence[str], device: str = "cpu") -> dict[str, Reward]:
    """The rewards of these names; what several of them share is loaded once."""
    check_rewards(names)
    parts = {term: find_reward(term)(device) for term in _terms(names)}
    return {name: combine(parse(name), parts) for name in names}


def load_reward(name: str, device: str = "cpu") -> Reward:
    """The reward of one name."""
    return load_rewards([name], device)[name]

"""Rewards by name: score image i against prompt i, larger is better."""

from collections.abc import Callable
from pathlib import Path

from drift.errors import UserError
from drift.hub import locate
from drift.rewards import hpsv2, pickscore
from drift.types import Reward

# name -> (loader, its weights unless told otherwise: a shipped part or a hub id)
REWARDS: dict[str, tuple[Callable[..., Reward], str]] = {
    "pickscore": (pickscore.load, "yuvalkirstain/PickScore_v1"),
    "hpsv2": (hpsv2.load, "xswu/HPSv2"),
    "pickscore-tiny": (pickscore.load, "menagerie/pickscore-tiny"),
    "hpsv2-tiny": (hpsv2.load, "menagerie/hpsv2-tiny"),
}


def load_reward(name: str, device: str = "cpu") -> Reward:
    """The reward called `name`; "name:WEIGHTS" takes another folder, file or hub id."""
    kind, _, weights = name.partition(":")
    if kind not in REWARDS:
        raise UserError(f"reward: there is no '{kind}'; known are {', '.join(REWARDS)}")
    load, default = REWARDS[kind]
    return load(Path(locate(weights or default, field="reward")), device)

"""Rewards by name: score image i against prompt i, larger is better.

In: a name. Out: (images "N 3 H W" in [0, 1], prompts) to scores "N". Start reading at `REWARDS` and
`load_rewards`; a reward is one file. A name is one of REWARDS ("name:WEIGHTS" with other weights),
the URL of a server (`remote`), an import path (`custom`), or a weighted sum of such
(`drift.reward_names`). Servers and functions of one's own also get what the file of prompts says of
each prompt: its fields, given at loading.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from drift.errors import UserError
from drift.files.foreign import reason
from drift.files.hub import Part, Weights, is_url, locate
from drift.reward_names import parse
from drift.rewards import aesthetic, clip, custom, hpsv2, imagereward, jpeg, pickscore, remote
from drift.rewards.clip_score import CLIP_TOKENIZER
from drift.rewards.weighted_sum import combine
from drift.types import Fields, Reward

NO_FIELDS: Fields = MappingProxyType({})

REWARDS: dict[str, Part] = {
    "pickscore": Part(pickscore.load, (pickscore.WEIGHTS,), (CLIP_TOKENIZER,)),
    "hpsv2": Part(hpsv2.load, (hpsv2.WEIGHTS,), (CLIP_TOKENIZER,)),
    "hpsv2.1": Part(hpsv2.load_v21, (hpsv2.WEIGHTS_V21,), (CLIP_TOKENIZER,)),
    "imagereward": Part(imagereward.load, (imagereward.WEIGHTS,), (imagereward.TOKENIZER,)),
    "aesthetic": Part(aesthetic.load, (aesthetic.WEIGHTS, aesthetic.CLIP)),
    "clip": Part(clip.load, (clip.WEIGHTS,), (CLIP_TOKENIZER,)),
    "pickscore-tiny": Part(
        pickscore.load, (Weights("menagerie/pickscore-tiny"),), (CLIP_TOKENIZER,)
    ),
    "hpsv2-tiny": Part(hpsv2.load, (Weights("menagerie/hpsv2-tiny"),), (CLIP_TOKENIZER,)),
    "jpeg-compressibility": Part(jpeg.load_compressibility),
    "jpeg-incompressibility": Part(jpeg.load_incompressibility),
}


def _load_part(part: Part, device: str, _: Fields) -> Reward:
    paths = [locate(w, field="reward") for w in part.weights]
    try:
        return part.load(*paths, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever the libraries say of files that are no reward
        where = paths[0] if paths else "it"
        raise UserError(f"reward: {where} cannot be loaded: {reason(error)}") from error


def find_part(name: str) -> Part | None:
    """That of REWARDS, with the weights that `name` wants; None if it is a URL or a function."""
    kind, colon, own = name.partition(":")
    part = REWARDS.get(kind)
    if part and colon and not part.weights:
        raise UserError(f"reward: '{kind}' has no weights, so ':{own}' means nothing")
    return part.own(own) if part and own else part


def find_reward(name: str) -> Callable[[str, Fields], Reward]:
    """What loads the reward of this name, not a sum: takes a device and the prompts' fields.

    An unknown name is refused.
    """
    if part := find_part(name):
        return partial(_load_part, part)
    if is_url(name):
        remote.check_url(name)
        return partial(remote.load, name)
    path = custom.IMPORT_PATH.fullmatch(name)
    if path and custom.module_exists(name):
        return partial(custom.load, name)
    module = ", and there is no module of that name" if path else ""
    kind = name.partition(":")[0]
    raise UserError(f"reward: there is no '{kind}'; known are {', '.join(REWARDS)}{module}")


def check_rewards(names: Sequence[str]) -> None:
    """Refuse malformed and unknown names without loading anything."""
    for term in list_terms(names):
        find_reward(term)


def refuse_strange_code(names: Sequence[str], source: Path) -> None:
    """Refuse functions that only the run or file `source` names, if their code is not known here.

    Known is what ran before at a person's wish (`drift.files.trust`).
    """
    for term in list_terms(names):
        if find_part(term) is None and not is_url(term) and custom.IMPORT_PATH.fullmatch(term):
            custom.refuse_strange(term, source)


def list_terms(names: Sequence[str]) -> list[str]:
    """The names in all these sums, each once."""
    try:
        return list(dict.fromkeys(term for name in names for term in parse(name)))
    except ValueError as error:
        raise UserError(f"reward: {error}") from error


def load_rewards(
    names: Sequence[str], device: str = "cpu", fields: Fields = NO_FIELDS
) -> dict[str, Reward]:
    """The rewards of these names; what several of them share is loaded once.

    `fields` has every prompt that there will be, with no fields ({}) if it comes with none. A
    prompt that is not there has none either.
    """
    check_rewards(names)
    parts = {term: find_reward(term)(device, fields) for term in list_terms(names)}
    return {name: combine(parse(name), parts) for name in names}


def load_reward(name: str, device: str = "cpu", fields: Fields = NO_FIELDS) -> Reward:
    """The reward of one name."""
    return load_rewards([name], device, fields)[name]

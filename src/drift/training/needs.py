"""What a run is made from: the weights that its configuration names, where they lie, their hashes.

`drift fetch` brings them here beforehand. `drift train` records them, and a resumed run that would
go on with others is refused; `drift evaluate` records its judges', and judges anew by others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.config import OWN_FEATURES, TrainConfig
from drift.encoders import find_encoder
from drift.errors import UserError
from drift.files import hub
from drift.files.checksums import checksum, joint, published_checksum, revision_of
from drift.files.hub import Part, Weights, is_url
from drift.files.sources import imported_beside, root_of
from drift.models import (
    adapter_files,
    find_model,
    locate_adapter,
    locate_model,
    model_files,
    model_weights,
)
from drift.recipes import read_prompts
from drift.recipes.prompt_lists import find_prompts
from drift.rewards import check_rewards, custom, find_part, list_terms
from drift.training.policy import pick_device

MODEL, ADAPTER, PROMPTS, HELPERS = "model", "adapter", "prompts", "helpers"
MOVABLE = (MODEL, ADAPTER, PROMPTS)  # whose names may be others, if what they hold is the same
SHOWN = 5  # differences told of two records


@dataclass(frozen=True)
class Need:
    """Weights, and what for: "model", "adapter", "reward NAME" or "encoder NAME"."""

    role: str
    weights: Weights

    def find(self) -> Path | None:
        """Where they lie, complete; asks no network."""
        return find_model(self.weights.repo) if self.role == MODEL else hub.find(self.weights)

    def locate(self) -> Path:
        """Where they lie; what is not here is downloaded."""
        if self.role == MODEL:
            return locate_model(self.weights.repo)
        if self.role == ADAPTER:
            return locate_adapter(self.weights.repo)
        return hub.locate(self.weights, field=self.role.partition(" ")[0])

    def files(self, path: Path) -> dict[str, Path]:
        """Those that count of what lies at `path`, by their names in it."""
        if self.role == MODEL:
            return model_files(path)
        if self.role == ADAPTER:
            return adapter_files(path)
        return hub.files_of(self.weights, path)


def list_needs(config: TrainConfig, *, evaluation: bool = False) -> list[Need]:
    """What training needs, with `evaluation` what judging and looking do as well; each once.

    Whether a fallback is needed may only be certain once the weights before it are here.
    Functions, URLs and JPEG sizes need nothing.
    """
    rewards = [config.reward]
    encoders = [name for name in (config.encoder,) if name not in ("", OWN_FEATURES)]
    if evaluation:
        rewards, encoders = rewards + config.judging_rewards, encoders + config.judging_encoders
        encoders += [config.live_encoder] if config.live.every else []
    own = [Need(MODEL, model_weights(config.model.name))]
    if config.model.adapter:
        own.append(Need(ADAPTER, Weights(config.model.adapter)))
    return list(dict.fromkeys([*own, *_list_judges(rewards, encoders, config.model.name)]))


def check_names(config: TrainConfig) -> None:
    """Refuse, by field and before anything is loaded, what only an evaluation or a look would miss.

    Rewards, encoders, prompts and the worker's device are asked for by name alone.
    """
    asked, live, policy = config.evaluation, config.live, config.model.name
    checks: list[tuple[str, Callable[[], object]]] = [
        ("evaluation.rewards", lambda: check_rewards(config.judging_rewards)),
        *(
            ("evaluation.encoders", partial(find_encoder, name, policy))
            for name in config.judging_encoders
        ),
        ("live.encoder", lambda: find_encoder(live.encoder, policy) if live.encoder else None),
        ("reward_worker.device", lambda: pick_device(config.reward_worker.device)),
    ]
    check_rewards([config.reward])
    if config.encoder not in ("", OWN_FEATURES):
        find_encoder(config.encoder, policy)
    for field, check in checks:
        try:
            check()
        except UserError as error:
            raise UserError(f"{field}: {str(error).partition(': ')[2]}") from error
    if asked.prompts:
        held = len(read_prompts(asked.prompts, field="evaluation.prompts"))
        if asked.prompts_count > held:
            told = f"{asked.prompts_count}, but '{asked.prompts}' has {held}"
            raise UserError(f"evaluation.prompts_count: {told}")


def _list_judges(rewards: list[str], encoders: list[str], policy: str) -> list[Need]:
    check_rewards(rewards)
    needs = []
    for term in list_terms(rewards):
        needs += _needs_of(f"reward {term}", find_part(term))
    for name in encoders:
        needs += _needs_of(f"encoder {name}", find_encoder(name, policy))
    return needs


def _needs_of(role: str, part: Part | None) -> list[Need]:
    if part is None or not part.weights:
        return []
    needs, first = [Need(role, weights) for weights in part.weights], part.weights[0]
    lacking = [f.weights for f in part.fallbacks if f.is_needed(first, needs[0].find())]
    return needs + [Need(role, weights) for weights in lacking]


def record(config: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    """What training uses, by role: name, path, and SHA-256 of each file; all of it is here.

    Of what came from the hub the commit as well, its `revision`. A function of one's own is its
    source file, and the modules beside it that it imports; a URL is just itself.
    """
    used = [*map(_place, list_needs(config)), *_functions([config.reward])]
    used += [_prompts(config.prompts), *_helpers(config.reward)]
    hashes = _checksums({file.resolve() for *_, files in used for file in files.values()})
    written: dict[str, list[dict[str, Any]]] = {}
    for role, name, path, files in used:
        sums = {file: hashes[place.resolve()] for file, place in files.items()}
        where = {"path": str(path.absolute()), "sha256": sums} if path else {}
        commit = revision_of(path) if path else None
        where |= {"revision": commit} if commit else {}
        written.setdefault(role, []).append({"name": name} | where)
    return written


def record_judges(config: TrainConfig, hashes: dict[Path, str]) -> dict[str, str]:
    """One SHA-256 of each judge of an evaluation, by role; a URL has none.

    `hashes` holds those of files read before, and gets the others.
    """
    rewards, encoders = config.judging_rewards, config.judging_encoders
    used = [*map(_place, _list_judges(rewards, encoders, config.model.name)), *_functions(rewards)]
    files = {file.resolve() for *_, files in used for file in files.values()}
    hashes |= _checksums(files - hashes.keys())
    named: dict[str, list[tuple[str, str]]] = {}
    for role, _, _, files in used:
        for name, place in sorted(files.items()):
            named.setdefault(role, []).append((name, hashes[place.resolve()]))
    return {role: joint(pairs) for role, pairs in named.items()}


Used = tuple[str, str, Path | None, dict[str, Path]]  # role, name, where it lies, its files


def _place(need: Need) -> Used:
    path = need.find() or need.locate()
    return need.role, need.weights.repo, path, need.files(path)


def _functions(rewards: list[str]) -> list[Used]:
    """Of rewards that are neither weights nor JPEG sizes: a function's source, nothing of a URL."""
    used: list[Used] = []
    for term in list_terms(rewards):
        if find_part(term) is None:
            source = None if is_url(term) else custom.source_file(term)
            used.append((f"reward {term}", term, source, {source.name: source} if source else {}))
    return used


def _prompts(name: str) -> Used:
    path = find_prompts(name)
    return PROMPTS, name, path, {path.name: path}


def _helpers(reward: str) -> list[Used]:
    """Modules beside a function of one's own that it imports, and those that these import."""
    used: list[Used] = []
    for term in list_terms([reward]):
        source = None if find_part(term) or is_url(term) else custom.source_file(term)
        if source:
            root = root_of(source)
            files = {f.relative_to(root).as_posix(): f for f in imported_beside(source)}
            used += [(f"{HELPERS} of {term}", term, root, files)] if files else []
    return used


def _checksums(files: set[Path]) -> dict[Path, str]:
    """Each file read once, unless the hub's cache names it so; a bar if it takes over a second."""
    told = {file: known for file in files if (known := published_checksum(file))}
    unread = sorted(files - told.keys())
    total = sum(file.stat().st_size for file in unread)
    bar = tqdm(total=total, desc="checksums", unit="B", unit_scale=True, delay=1, leave=False)
    with bar:
        return told | {file: checksum(file, bar.update) for file in unread}


def refuse_others(run: Path, before: Any, now: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse to go on in `run` with other files than were recorded `before`, wherever they lie."""
    try:
        old = _flatten(before)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{run / 'environment.json'}: 'weights' is not as a run writes it"
        ) from error
    new = _flatten(_named_as(before, now))
    moved = {role for role in MOVABLE if _sums(before, role) == _sums(now, role)}
    unknown = {role for role in now if role.startswith((PROMPTS, HELPERS))}
    passed = moved | (unknown if PROMPTS not in before else set())  # from before it was recorded
    different = [
        f"{file} (then {_short(old.get(file))}, now {_short(new.get(file))})"
        for file in dict.fromkeys([*old, *new])
        if old.get(file) != new.get(file) and file.partition(", ")[0] not in passed
    ]
    if different:
        more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        told = "; ".join(different[:SHOWN]) + more
        raise UserError(f"cannot resume {run}: it was begun with others: {told}")


def _flatten(written: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """ "ROLE, FILE of NAME" -> SHA-256."""
    return {
        f"{role}, {file} of {entry['name']}": sha256
        for role, entries in written.items()
        for entry in entries
        for file, sha256 in entry.get("sha256", {}).items()
    }


def _named_as(before: Any, now: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What may have moved, by the name that it had before."""
    one = [role for role in MOVABLE if len(before.get(role, [])) == len(now.get(role, [])) == 1]
    return now | {role: [now[role][0] | {"name": before[role][0]["name"]}] for role in one}


def _sums(written: dict[str, list[dict[str, Any]]], role: str) -> list[str]:
    """Of all files of a role, whatever they are called."""
    return sorted(s for entry in written.get(role, []) for s in entry.get("sha256", {}).values())


def _short(sha256: str | None) -> str:
    return str(sha256)[:12] if sha256 else "absent"

"""Shipped recipes (YAML) and prompt lists (`prompt_lists`), and what a recipe means.

In: a recipe's name or file, and overrides. Out: a `TrainConfig`. Start reading at `load_recipe`.
`key.sub=value` overrides one field. `method` is a name, or `base:` a name with changes; `parts`
gives settings that belong to a scale (a latent size, an encoder) by "slot.kind", for whichever
method has that part. A recipe may extend another: `extends: sd15-pickscore`.
"""

import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

from drift.config import TrainConfig, parse_value, read_yaml, validate
from drift.errors import UserError
from drift.methods import METHODS
from drift.methods.parts import Method
from drift.recipes.prompt_lists import read_fields as read_fields
from drift.recipes.prompt_lists import read_prompts as read_prompts

RECIPES = Path(__file__).parent
PATH = re.compile(r"\w{1,60}(?:\.\w{1,60}){0,9}")  # of an override
PLACE = re.compile(r"\{([^{}]*)\}")  # in `output`


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, key by key; a part of another kind replaces the old one whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            other_kind = value.get("kind", old.get("kind")) != old.get("kind")
            merged[key] = value if other_kind else _merge(old, value)
        else:
            merged[key] = value
    return merged


def _resolve_method(raw: Any, parts: dict[str, dict]) -> tuple[str, dict[str, Any]]:
    """Name and full slots of a method given as a name, or as `{base: name, slot: changes}`.

    `parts` holds the scale's settings by "slot.kind"; what the method says itself goes before them.
    """
    changes: dict[str, Any]
    changes = {"base": raw} if isinstance(raw, str) else dict(_section(raw, "method"))
    name = changes.pop("base", "grpo")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"method: there is no '{name}'; known are {', '.join(METHODS)}")
    slots = _merge(asdict(METHODS[name]()), changes)
    for slot, part in slots.items():
        if isinstance(part, dict):
            defaults = parts.get(f"{slot}.{part.get('kind')}", {})
            slots[slot] = part | defaults | (changes.get(slot) or {})
    return name, slots


def _section(value: Any, name: str) -> dict[str, Any]:
    """The mapping that must stand there; nothing is an empty one."""
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name}: {value!r} is no section: write {name}.FIELD=VALUE")
    return value or {}


def _known_parts() -> set[str]:
    """ "slot.kind" for every part of every slot."""
    hints = get_type_hints(Method)
    return {f"{slot}.{p.kind}" for slot, hint in hints.items() for p in get_args(hint) or (hint,)}


def _scale(raw: Any) -> dict[str, dict[str, Any]]:
    """The scale's settings by "slot.kind"."""
    parts = _section(raw, "parts")
    if unknown := set(parts) - _known_parts():
        raise UserError(f"parts: there is no part '{min(unknown)}'")
    return {name: _section(part, f"parts.{name}") for name, part in parts.items()}


def _output(raw: Any, names: dict[str, str]) -> Any:
    """The run's folder, with the recipe's and the method's name in their places; 2024 is one too.

    What is no name is left to be refused.
    """

    def put(place: re.Match[str]) -> str:
        if place[1] not in names:
            known = " and ".join(f"{{{name}}}" for name in names)
            raise UserError(f"output: '{place[0]}' is not known there; {known} are")
        return names[place[1]]

    return PLACE.sub(put, str(raw)) if isinstance(raw, str | int | float) else raw


def parse_override(text: str) -> tuple[list[str], Any]:
    """Path and value of a `key.sub=value`."""
    path, equals, value = text.partition("=")
    if not equals or not PATH.fullmatch(path):
        raise UserError(f"'{text}' is not an override: write key=value or key.sub=value")
    return path.split("."), parse_value(value, named=path)


def _apply(raw: dict, path: list[str], value: Any) -> None:
    *parents, leaf = path
    for depth, parent in enumerate(parents, 1):
        inner = raw.get(parent)
        name = ".".join(path[:depth])
        raw[parent] = (
            {"base": inner}
            if name == "method" and isinstance(inner, str)
            else dict(_section(inner, name))
        )
        raw = raw[parent]
    if leaf == "method" and isinstance(raw.get("method"), dict) and isinstance(value, str):
        raw["method"] = {**raw["method"], "base": value}
    else:
        raw[leaf] = value


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _find_recipe(name: str) -> tuple[Path, str | None]:
    """File, and the method if `name` ends in one: "menagerie-grpo" is menagerie by GRPO."""
    shipped = recipe_names()
    if name in shipped:
        return RECIPES / f"{name}.yaml", None
    for method in METHODS:
        base = name.removesuffix("-" + method)
        if name.endswith("-" + method) and base in shipped:
            return RECIPES / f"{base}.yaml", method
    if not os.path.isfile(name):  # unlike Path's it takes any text
        raise UserError(
            f"there is no recipe '{name}'; shipped are {', '.join(shipped)}, each also with "
            "a method's name behind it, as in menagerie-grpo"
        )
    return Path(name), None


def _read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's fields over those of the recipe that it `extends`, if it does."""
    raw = read_yaml(path)
    if "extends" not in raw:
        return raw
    base, method = _find_recipe(str(raw.pop("extends")))
    if method or path in above:
        raise UserError(f"extends: {path} extends itself, or a method, not a recipe")
    return _merge(_read_recipe(base, (*above, path)), raw)


def load_recipe(recipe: str, overrides: list[str]) -> TrainConfig:
    """A shipped recipe (or "<recipe>-<method>") or a YAML file, with `key.sub=value` overrides."""
    path, method = _find_recipe(recipe)
    raw = _read_recipe(path)
    if method:
        _apply(raw, ["method"], method)
    for override in overrides:
        _apply(raw, *parse_override(override))
    parts = _scale(raw.pop("parts", None))
    raw["method_name"], raw["method"] = _resolve_method(raw.get("method"), parts)
    names = {"recipe": path.stem, "method": raw["method_name"]}
    raw["output"] = _output(raw.get("output", "runs/{recipe}-{method}"), names)
    return validate(raw, source=recipe)

"""What a run tells of itself: JSON, lines of JSON, and in what two settings differ."""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from drift.errors import UserError

LONGEST = 60  # characters of a value in a message


def read_object(path: Path, *, field: str) -> dict[str, Any]:
    """The JSON object in a file; an absent file is an empty one."""
    try:
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{field}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{field}: {path} is damaged: {error}") from error


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in UTF-8; a ValueError says in a phrase what is wrong."""
    try:
        content = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8, at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}, at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("it is not JSON that anybody wrote: too deep") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def complete_lines(path: Path) -> list[bytes]:
    """Every line of a file that has its end; one that is being written is not there yet."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def read_lines(path: Path, *, field: str) -> list[dict[str, Any]]:
    """The JSON objects in the complete lines of a file; a damaged one is told by its number."""
    found = []
    for number, line in enumerate(complete_lines(path), 1):
        try:
            found.append(parse_object(line))
        except ValueError as error:
            raise UserError(f"{field}: {path}, line {number} is damaged: {error}") from error
    return found


def count_lines(lines: Iterable[bytes]) -> dict[str, Any]:
    """How many lines, and their SHA-256: what a checkpoint remembers of the course until then."""
    lines = list(lines)
    return {"lines": len(lines), "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}


def settings_difference(
    one: dict[str, Any], two: dict[str, Any], ignore: Collection[str] = (), told: str = "{} and {}"
) -> str | None:
    """Name and values of the first setting in which two differ, in one short line.

    `told` says which value is which: "{} then, {} now".
    """
    for key in {**one, **two}:
        here, there = one.get(key), two.get(key)
        if key not in ignore and here != there:
            if isinstance(here, dict) and isinstance(there, dict):
                return f"{key}: {settings_difference(here, there, told=told)}"
            return f"{key} ({told.format(*_apart(here, there))})"
    return None


def _apart(here: Any, there: Any) -> tuple[str, str]:
    """Two values in short; of long lists their lengths, or the first items that differ."""
    long = max(len(str(here)), len(str(there))) > LONGEST
    if isinstance(here, list) and isinstance(there, list) and long:
        if len(here) != len(there):
            return f"{len(here)} of them", f"{len(there)} of them"
        here, there = next(pair for pair in zip(here, there, strict=True) if pair[0] != pair[1])
    return _shorten(here), _shorten(there)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

"""Files of prompts: text, one a line, or `.jsonl`, where a prompt comes with data of its own.

    {"prompt": "two foxes", "count": 2}

Whatever stands there besides the prompt are its fields: nothing here reads them, rewards get them.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drift.errors import UserError, refuse

SHIPPED = Path(__file__).parent / "prompts"
WRITER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)
Entry = tuple[str, dict[str, Any]]


def find_prompts(name: str) -> Path:
    """Where prompts of this name lie: a shipped list, or else a file that may not be there."""
    shipped = f"{SHIPPED / name}.txt"
    return Path(shipped if os.path.isfile(shipped) else name)


def read_fields(name: str, *, field: str = "prompts") -> dict[str, dict[str, Any]]:
    """Prompt -> its fields, in the order of the file or shipped list; text has none.

    A `.jsonl` file holds an object a line with a "prompt" and any other fields; whatever else is
    called differently is text. Both are UTF-8; blank lines are skipped. Errors name `field`.
    """
    path = find_prompts(name)
    try:
        if os.path.exists(name) and not os.path.isfile(path):
            raise UserError(f"{field}: '{name}' is not a regular file")
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a BOM, CRLF: no prompt's part
    except FileNotFoundError:
        raise UserError(f"{field}: there is no prompt file or list '{name}'") from None
    except (OSError, ValueError) as error:  # no UTF-8; a name that can be none
        raise UserError(f"{field}: cannot read '{name}' as UTF-8 text: {error}") from None
    parse: Callable[[str], Entry] = _parse if path.suffix.lower() == ".jsonl" else lambda s: (s, {})
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        try:
            prompt, fields = parse(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{field}: '{name}', line {number}: {error}") from error
        if prompt in found:
            told = f"more than once, in lines {places[prompt]} and {number}"
            raise UserError(f"{field}: '{name}' has '{prompt}' {told}")
        found[prompt], places[prompt] = fields, number
    if not found:
        raise UserError(f"{field}: the prompt file '{name}' is empty")
    return found


def read_prompts(name: str, *, field: str = "prompts") -> list[str]:
    """The prompts alone, as `read_fields` finds them."""
    return list(read_fields(name, field=field))


def _parse(line: str) -> Entry:
    """One line of a `.jsonl` file; a ValueError says what is wrong with it."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}, at column {error.colno}") from error
    refuse(not isinstance(fields, dict), 'it wants an object, as in {"prompt": "a fox"}')
    # An evaluation writes them down again, as JSON in UTF-8: no NaN, no half of a surrogate pair.
    WRITER.encode(fields).encode()
    prompt = fields.pop("prompt", None)
    refuse(not isinstance(prompt, str), 'it has no "prompt" that is a text')
    prompt = prompt.strip()
    refuse(not prompt, 'its "prompt" is empty')
    refuse("\n" in prompt or "\r" in prompt, 'its "prompt" has more than one line')
    return prompt, fields

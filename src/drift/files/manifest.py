"""What a folder holds, written beside it: checksums that also protect themselves.

The manifest lists every file with its SHA-256, facts of the folder, and a SHA-256 of all this. Its
bytes are the only ones that its content can have, so that any flipped bit is found. Names that
begin with a dot count for nothing.

Folders of before have a manifest without its own checksum. It is taken if it has the keys that it
had then and no other, in the very bytes that they were written in; a fact that is flipped in it is
for the caller to find, by the folder's name.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from drift.files.checksums import checksum, remembered

MANIFEST = "manifest.json"
OWN = "sha256"  # the key of the manifest's own checksum


class Damaged(Exception):
    """What is wrong with a folder, in one phrase."""


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _listing(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.name != MANIFEST and f.name[0] != ".")


def seal(folder: Path, **facts: Any) -> None:
    """Write the manifest of a folder's files; nothing is added to them after."""
    content = {**facts, "files": {file.name: checksum(file) for file in _listing(folder)}}
    text = _text(content | {OWN: _digest(content)})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path, *, required: Collection[str], old: set[str]) -> dict[str, Any]:
    """The facts and files of a folder, whose names are as listed; reads none of the files.

    `required`: files that must be among them. `old`: the keys of a manifest of before.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        content = json.loads(data)
        if not isinstance(content, dict) or _text(content).encode() != data:
            raise Damaged(f"'{MANIFEST}' is damaged")
        own = content.pop(OWN, None)
        files = content.get("files")
        whole = content.keys() == old if own is None else own == _digest(content)
        if not whole or not isinstance(files, dict):
            raise Damaged(f"'{MANIFEST}' is damaged")
        present = {file.name for file in _listing(folder)}
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"is incomplete ({type(error).__name__}: {error})") from error
    _compare(present, files, required)
    return content


def _compare(present: set[str], files: dict[str, str], required: Collection[str]) -> None:
    for name in files:
        if Path(name).name != name:
            raise Damaged(f"names a file outside itself: '{name}'")
    absent = [name for name in (*files, *required) if name not in present]
    unknown = sorted(present - files.keys())
    if absent:
        raise Damaged(f"is incomplete (FileNotFoundError: '{absent[0]}')")
    if unknown:
        raise Damaged(f"holds '{unknown[0]}', which its {MANIFEST} does not list; move it away")


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Read the files, unless this process has done so already and they have not changed since."""
    for name, expected in manifest["files"].items():
        try:
            found = remembered(folder / name)
        except OSError as error:
            raise Damaged(f"is incomplete ({type(error).__name__}: {error})") from error
        if found != expected:
            raise Damaged(f"'{name}' is damaged")

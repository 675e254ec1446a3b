"""SHA-256 of files; a link counts as the file that it leads to."""

import hashlib
import itertools
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def checksum(path: Path, advance: Callable[[int], object] = int) -> str:
    """SHA-256 of a file, read in pieces; `advance` is told the bytes of each."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


_REMEMBERED: dict[tuple[Path, int, int], str] = {}
RECENT = 2.0  # seconds: a file this young may change again without another time


def remembered(path: Path) -> str:
    """SHA-256 of a file, read once in this process for as long as its size and time stay."""
    state = path.stat()
    key = path.resolve(), state.st_size, state.st_mtime_ns
    if key not in _REMEMBERED or time.time() - state.st_mtime < RECENT:
        _REMEMBERED[key] = checksum(path)
    return _REMEMBERED[key]


def published_checksum(path: Path) -> str | None:
    """The SHA-256 that a large file in the hub's cache is named by: it need not be read for it."""
    blob = path.resolve()
    in_cache = blob.parent.name == "blobs" and blob.parents[1].name.startswith("models--")
    return blob.name if in_cache and re.fullmatch("[0-9a-f]{64}", blob.name) else None


def revision_of(path: Path) -> str | None:
    """The commit of a repository that `path` is a snapshot of, in the hub's cache, or lies in."""
    pairs = itertools.pairwise([path, *path.parents])
    return next((place.name for place, above in pairs if above.name == "snapshots"), None)


def joint(named: Iterable[tuple[str, str]]) -> str:
    """One checksum of files with these (name, checksum), in this order."""
    total = hashlib.sha256()
    for name, digest in named:
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def joint_checksum(paths: Iterable[Path], known: dict[Path, str] | None = None) -> str:
    """One checksum over files, by name and content, in order of their paths.

    `known` holds those of files read before, and gets the others.
    """
    known = {} if known is None else known
    for path in (paths := sorted(paths)):
        place = path.resolve()
        known[place] = known.get(place) or published_checksum(path) or remembered(path)
    return joint((path.name, known[path.resolve()]) for path in paths)

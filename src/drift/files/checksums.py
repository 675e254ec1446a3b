"""SHA-256 of files; a link counts as the file that it leads to."""

import hashlib
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


def joint(named: Iterable[tuple[str, str]]) -> str:
    """One checksum of files with these (name, checksum), in this order."""
    total = hashlib.sha256()
    for name, digest in named:
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def joint_checksum(paths: Iterable[Path]) -> str:
    """One checksum over files, by name and content, in order of their paths."""
    return joint((path.name, checksum(path)) for path in sorted(paths))

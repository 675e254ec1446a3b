"""Which code is known here: that which ran before because a person on this machine wished it.

What a person names on the command line, in a recipe or in a program is run. What only the
config.yaml of a run folder names may be a stranger's, and is run if it is known. Of known code
there is a digest in the cache folder, outside every run: of the module's name, and of place and
content of its file and those of the packages around it; not of what these import in turn.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drift.files.checksums import checksum
from drift.files.hub import cache_folder


def folder() -> Path:
    return cache_folder() / "known-code"


def is_known(module: str, files: Sequence[Path]) -> bool:
    """Whether the module ran here with these very files."""
    return _mark(module, files).is_file()


def remember(module: str, files: Sequence[Path]) -> None:
    """Know it from now on; where the cache cannot be written, it will be asked about again."""
    with suppress(OSError):
        mark = _mark(module, files)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text("".join(f"{part}\n" for part in (module, *files)), encoding="utf-8")


def _mark(module: str, files: Sequence[Path]) -> Path:
    told = [module, *(f"{checksum(file)} {file.resolve()}" for file in files)]
    return folder() / hashlib.sha256("\n".join(told).encode()).hexdigest()

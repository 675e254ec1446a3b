"""One way to write what must not be lost: whole or not at all, and on the disk before it counts.

What is written has another name beside its own until it is complete and synced; then it is renamed.
A kill, a full disk or a folder without permission leave what was there before, and one line tells.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError

from drift.errors import UserError
from drift.files.foreign import reason

# What to do about an error of the system, where there is anything.
ADVICE = {
    errno.ENOSPC: "make room, and give the command again",
    errno.EDQUOT: "make room, and give the command again",
    errno.EFBIG: "allow larger files there, and give the command again",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may write",
    errno.EPERM: "name a place that you may write",
}


@contextmanager
def told(target: Path, *, field: str) -> Iterator[None]:
    """Whatever the system or safetensors refuse inside becomes one line: field, place, advice."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, why = _cause(error)
        kept = "; what was there is as it was" if os.path.exists(target) else ""
        advice = f"; {ADVICE[number]}" if number in ADVICE else ""
        raise UserError(f"{field}: cannot write {target}: {why}{kept}{advice}") from error


def _cause(error: OSError | SafetensorError) -> tuple[int | None, str]:
    """Number and words of what the system said; safetensors has both in its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.strerror or os.strerror(error.errno)
    within = re.search(r"\(os error (\d+)\)", str(error))
    number = int(within[1]) if within else None
    if re.search(r"\d+ requested and \d+ written", str(error)):  # numpy's
        number = errno.ENOSPC
    return number, os.strerror(number) if number else reason(error)


@contextmanager
def replacing(target: Path, *, field: str, tag: str = "") -> Iterator[Path]:
    """Where to make a file or a folder that then takes the place of `target`, synced.

    What fails inside leaves nothing behind. An older folder is moved aside before, and removed
    after: a kill between the two leaves it as .NAME.replaced. `tag` tells writers of one target
    apart, where there may be several.
    """
    partial = target.with_name(f".{target.name}{tag}.partial")
    with told(target, field=field):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        try:
            yield partial
            sync(partial)
            _take_place(partial, target)
        finally:
            remove(partial)


def _take_place(partial: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.replaced")
    if target.is_dir():
        remove(aside)
        target.rename(aside)
    try:
        partial.replace(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    _sync_one(target.parent)
    remove(aside)


def write_text(target: Path, text: str, *, field: str) -> None:
    """Write a file of UTF-8 in the place of `target`."""
    with replacing(target, field=field) as partial:
        partial.write_text(text, encoding="utf-8")


def write_texts(folder: Path, texts: Mapping[str, str], *, field: str) -> None:
    """Write files by their names in `folder`; none takes its place before all are written."""
    with ExitStack() as stack:
        for name, text in texts.items():
            partial = stack.enter_context(replacing(folder / name, field=field))
            partial.write_text(text, encoding="utf-8")


def append_text(target: Path, text: str, *, field: str) -> None:
    """Add to a file of UTF-8, synced; if that fails, the file is as long as before."""
    with told(target, field=field), target.open("ab") as file:
        before = file.tell()
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(target, before)
            raise
        if not before:
            _sync_one(target.parent)


def sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    for inner in path.iterdir() if path.is_dir() else ():
        sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

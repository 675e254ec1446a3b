"""One process at a time in a folder; the lock goes with its process, however that ends."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from tqdm import tqdm

from drift.errors import UserError
from drift.files.writing import told

LOCK, GATE = ".lock", ".gate.lock"
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
MOMENT = 10.0  # seconds that another process may take to look around


@contextmanager
def alone(folder: Path, *, field: str, advice: str, name: str = LOCK) -> Iterator[None]:
    """Hold `folder` by a file in it, or say in one line who does, and `advice`.

    The folder is made if it is not there, and goes again if nothing else is put there, and so do
    those around it. Where the
    file system knows no locks, it is said and gone on.
    """
    file = folder / name
    with told(folder, field=field):
        made = _make(folder)
        lock = _acquire(file)
    if isinstance(lock, str):
        raise UserError(f"{field}: {folder} is in use by {lock}; {advice}")
    try:
        yield
    finally:
        _drop(file, lock)
        _leave(made)


@contextmanager
def together(folder: Path, *, member: str, purpose: str, field: str, advice: str) -> Iterator[None]:
    """Hold `folder` together with other members of one purpose; any other is refused.

    Each member has a lock of its own, .MEMBER.PURPOSE.lock: two cannot be the same one.
    """
    ending, entry = f".{purpose}{LOCK}", folder / GATE
    with told(folder, field=field):
        made = _make(folder)
        gate = _acquire(entry, MOMENT)
    if isinstance(gate, str):
        raise UserError(f"{field}: {folder} is in use by {gate}; {advice}")
    with ExitStack() as stack:
        stack.callback(_leave, made)
        try:
            for file in folder.glob(f".*{LOCK}"):
                if file != entry and not file.name.endswith(ending):
                    other = _acquire(file)
                    if isinstance(other, str):
                        raise UserError(f"{field}: {folder} is in use by {other}; {advice}")
                    _drop(file, other)  # left by one that was killed
            name = f".{member}{ending}"
            stack.enter_context(alone(folder, field=field, advice=advice, name=name))
        finally:
            _drop(entry, gate)
        yield


def _make(folder: Path) -> list[Path]:
    """The folder, and those around it that were not there either; which are made, inner first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _leave(made: list[Path]) -> None:
    """Folders that were made to be held go again, as far as nothing was put there."""
    with suppress(OSError):  # it holds something
        for path in made:
            path.rmdir()


def _drop(file: Path, lock: BaseFileLock | None) -> None:
    if lock:
        file.unlink(missing_ok=True)  # still held: whoever opened it before begins again
        lock.release()


def _acquire(file: Path, patience: float = 0) -> BaseFileLock | str | None:
    """The lock; who else has it; None where there are no locks."""
    lock = FileLock(file, timeout=patience, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return _owner(file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        tqdm.write(f"{file.parent}: the file system has no locks; start no second process there")
        return None
    file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def _owner(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"

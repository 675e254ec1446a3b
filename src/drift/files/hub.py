"""Find weights by name: a shipped part, a local file or folder, a Hugging Face hub id, or a URL."""

import fnmatch
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock

from drift.errors import UserError
from drift.files.connection import name_of, refuse_credentials
from drift.files.downloads import download, largest, unpack
from drift.files.foreign import hub_reason

SHIPPED = Path(str(files("drift"))) / "menagerie" / "weights"
FILES = (".safetensors", ".ckpt", ".bin")  # "models/v1-5.safetensors" is no hub id
# What loaders read; else a folder may hold pictures, a README, a repository's own files.
SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".tar", ".json", ".txt"}


@dataclass(frozen=True)
class Weights:
    """Published weights, and what a person should know before fetching them."""

    repo: str  # hub id; URL of a file or .zip; or "menagerie/PART", which is shipped
    files: tuple[str, ...] = ()  # needed of a repository or archive, as glob patterns; empty: all
    size: str = ""  # of what is needed, "3.9 GB"
    licence: str = ""
    sha256: str = ""  # of the file at a URL, where it is published

    def __str__(self) -> str:
        told = [", ".join(self.files), self.size, self.licence and f"licence {self.licence}"]
        known = "; ".join(part for part in told if part)
        return f"'{self.repo}'" + (f" ({known})" if known else "")


@dataclass(frozen=True)
class Fallback:
    """Weights that a loader takes from elsewhere where its own folder comes without them."""

    weights: Weights
    unless: tuple[str, ...]  # paths in that folder; any one of them makes `weights` needless

    def beside(self, path: Path) -> Path | None:
        """What makes it needless in the folder `path`, or beside the file `path`."""
        folder = path if path.is_dir() else path.parent
        return next((folder / name for name in self.unless if (folder / name).is_file()), None)

    def is_needed(self, first: Weights, path: Path | None) -> bool:
        """Whether a part with these `first` weights, at `path` if they are here, needs it.

        Until they are here, only if what is fetched of them certainly brings none of `unless`.
        """
        if path is not None:
            return self.beside(path) is None
        brought = [name for name in self.unless for p in first.files if fnmatch.fnmatch(name, p)]
        return bool(first.files) and not brought


@dataclass(frozen=True)
class Part:
    """How a reward or encoder loads: `load(*paths, device=...)`, a path for each of `weights`.

    `fallbacks` are what the loader looks for itself, beside the first of them.
    """

    load: Callable[..., Any]
    weights: tuple[Weights, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()

    def own(self, repo: str) -> "Part":
        """The same part with other first weights, of which only the name is known."""
        return replace(self, weights=(Weights(repo), *self.weights[1:]))


def cache_folder() -> Path:
    """Where downloads and pre-training work lie: $DRIFT_CACHE, else ~/.cache/drift."""
    return Path(os.environ.get("DRIFT_CACHE", "~/.cache/drift")).expanduser()


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network; it holds for every download of ours."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def find_local(name: str) -> Path | None:
    """A shipped part or a local file or folder of that name, if there is one."""
    shipped = SHIPPED / name.removeprefix("menagerie/")
    if name.startswith("menagerie/") and shipped.exists():
        return shipped
    local = Path(name).expanduser()
    return local if local.exists() else None


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form "owner/repository", and not that of a file's path."""
    path = name.startswith((".", "/", "~", "menagerie/")) or name.endswith(FILES)
    return name.count("/") == 1 and not path


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def find(weights: Weights) -> Path | None:
    """The local folder or file of `weights`, if they are here and complete; asks no network."""
    here = find_local(weights.repo)
    if here is not None:
        return here
    if is_url(weights.repo):
        _, target = _places(weights.repo, "weights")
        return target if target.exists() else None
    if not is_hub_id(weights.repo):
        return None
    try:
        folder = _snapshot(weights, local_files_only=True)
    except Exception:  # noqa: BLE001 - of several kinds, and all say that it is not here
        return None
    return None if _lacking(weights, folder) else folder


def files_of(weights: Weights, path: Path) -> dict[str, Path]:
    """The files that count of `weights`, which lie at `path`, by their names in it, sorted.

    A file is itself. Of a folder the files that `weights` name; if they name none, or it has none
    of these, all that a loader might read.
    """
    if path.is_file():
        return {path.name: path}
    held = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    named = {name for pattern in weights.files for name in fnmatch.filter(held, pattern)}
    hidden = {name for name in held if name.startswith(".") or "/." in name}
    readable = {name for name in held.keys() - hidden if held[name].suffix in SUFFIXES}
    return {name: held[name] for name in sorted(named or readable)}


def locate(weights: Weights | str, *, field: str) -> Path:
    """The local folder or file of `weights`; what is not here is downloaded, and kept.

    `field` is the config field that an error should name.
    """
    weights = weights if isinstance(weights, Weights) else Weights(weights)
    name, here = weights.repo, find_local(weights.repo)
    if here is not None:
        return here
    if is_url(name):
        return _from_url(weights, field)
    if not is_hub_id(name):
        raise UserError(f"{field}: there is no file or folder '{name}'")
    return _from_hub(weights, field)


def missing(weights: Weights, field: str, reason: str | BaseException) -> UserError:
    """One line: what is missing, how large it is, where it comes from, and why it did not come."""
    told = reason if isinstance(reason, str) else hub_reason(reason)
    return UserError(
        f"{field}: {weights} is not on this machine and could not be fetched: {told}; "
        "a local copy can be named in its place"
    )


def _snapshot(weights: Weights, *, local_files_only: bool = False) -> Path:
    """A repository's folder in the hub's own cache; offline, with what there is of it."""
    from huggingface_hub import snapshot_download

    patterns = list(weights.files) or None
    return Path(
        snapshot_download(weights.repo, allow_patterns=patterns, local_files_only=local_files_only)
    )


def _lacking(weights: Weights, folder: Path) -> list[str]:
    """The patterns of `weights` that nothing in `folder` fits."""
    held = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [pattern for pattern in weights.files if not fnmatch.filter(held, pattern)]


def _from_hub(weights: Weights, field: str) -> Path:
    """The snapshot's folder, complete as far as `weights.files` go."""
    try:
        folder = _snapshot(weights)
    except Exception as error:  # offline, gated, missing: the hub has many noes
        raise missing(weights, field, error) from error
    for pattern in _lacking(weights, folder):
        raise missing(weights, field, f"the copy in {folder} lacks {pattern}")
    return folder


def _places(url: str, field: str) -> tuple[Path, Path]:
    """In our own cache: where `url` is downloaded to, and what it is in the end.

    The two differ for an archive, which ends as the folder that it was unpacked to. Files of one
    name from different addresses lie in folders of their own.
    """
    refuse_credentials(url, field=field)
    address = hashlib.sha256(url.encode()).hexdigest()[:12]
    file = cache_folder() / "downloads" / address / name_of(url, field=field)
    return file, file.with_suffix("") if file.suffix == ".zip" else file


def _from_url(weights: Weights, field: str) -> Path:
    """The downloaded file, or the folder an archive was unpacked to."""
    file, target = _places(weights.repo, field)
    if target.exists():
        return target
    if offline() and not file.exists():
        raise missing(weights, field, "HF_HUB_OFFLINE is set")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file.parent}.lock"):  # a second process waits, and then has it
            if not file.exists() and not target.exists():
                limit = largest(weights.size)
                download(weights.repo, file, limit=limit, sha256=weights.sha256)
            if not target.exists():
                unpack(file, target)
    except OSError as error:
        raise missing(weights, field, error.strerror or str(error)) from error
    return target

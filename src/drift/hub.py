"""Find weights by name: a shipped part, a local file or folder, a Hugging Face hub id, or a URL."""

import fnmatch
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.errors import UserError

SHIPPED = Path(str(files("drift"))) / "menagerie" / "weights"
TIMEOUT = 60  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class Weights:
    """Published weights, and what a person should know before fetching them."""

    repo: str  # hub id; URL of a file or .zip; or "menagerie/PART", which is shipped
    files: tuple[str, ...] = ()  # needed of a hub repository, as glob patterns; empty: all
    size: str = ""  # of what is needed, "3.9 GB"
    licence: str = ""

    def __str__(self) -> str:
        told = [", ".join(self.files), self.size, self.licence and f"licence {self.licence}"]
        known = "; ".join(part for part in told if part)
        return f"'{self.repo}'" + (f" ({known})" if known else "")


@dataclass(frozen=True)
class Part:
    """How a reward or encoder loads: `load(*paths, device=...)`, a path for each of `weights`."""

    load: Callable[..., Any]
    weights: tuple[Weights, ...] = ()


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
    """Whether `name` has the form "owner/repository"."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "menagerie/"))


def locate(weights: Weights | str, *, field: str) -> Path:
    """The local folder or file of `weights`; what is not here is downloaded, and kept.

    `field` is the config field that an error should name.
    """
    weights = weights if isinstance(weights, Weights) else Weights(weights)
    name, here = weights.repo, find_local(weights.repo)
    if here is not None:
        return here
    if name.startswith(("http://", "https://")):
        return _from_url(weights, field)
    if not is_hub_id(name):
        raise UserError(f"{field}: there is no file or folder '{name}'")
    return _from_hub(weights, field)


def missing(weights: Weights, field: str, reason: object) -> UserError:
    """One line: what is missing, how large it is, where it comes from, and why it did not come."""
    told = (str(reason).strip().splitlines() or ["no reason given"])[0]
    return UserError(
        f"{field}: {weights} is not on this machine and could not be fetched: {told}; "
        "a local copy can be named in its place"
    )


def _from_hub(weights: Weights, field: str) -> Path:
    """The snapshot's folder in the hub's own cache, complete as far as `weights.files` go."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(weights.repo, allow_patterns=list(weights.files) or None))
    except Exception as error:  # offline, gated, missing: the hub has many noes
        raise missing(weights, field, error) from error
    held = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    for pattern in weights.files:  # offline, the hub returns what it has of a snapshot
        if not fnmatch.filter(held, pattern):
            raise missing(weights, field, f"the copy in {folder} lacks {pattern}")
    return folder


def _from_url(weights: Weights, field: str) -> Path:
    """The downloaded file, or the folder an archive was unpacked to, in our own cache."""
    file = cache_folder() / "downloads" / weights.repo.rpartition("/")[2]
    target = file.with_suffix("") if file.suffix == ".zip" else file
    if target.exists():
        return target
    if offline():
        raise missing(weights, field, "HF_HUB_OFFLINE is set")
    try:
        if not file.exists():
            download(weights.repo, file)
        if target != file:
            _unpack(file, target)
    except (OSError, zipfile.BadZipFile) as error:
        raise missing(weights, field, error) from error
    return target


def download(url: str, file: Path) -> None:
    """Fetch `url` to `file`, going on where an interrupted download stopped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    done = partial.stat().st_size if partial.exists() else 0
    try:
        _append(url, partial, done)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # 416: there is nothing from that byte on
            raise
        if error.headers.get("Content-Range") != f"bytes */{done}":  # nor was it the last byte
            _append(url, partial, 0)
    partial.replace(file)


def _append(url: str, partial: Path, done: int) -> None:
    """Fetch `url` from byte `done` on, which is as much as `partial` has, or all of it anew."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        done = done if answer.status == 206 else 0  # 200: the server begins anew
        total = done + int(answer.headers.get("Content-Length", 0))
        name = partial.name.removesuffix(".partial")
        bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name)
        with partial.open("ab" if done else "wb") as out, bar:
            while chunk := answer.read(1 << 20):
                out.write(chunk)
                bar.update(len(chunk))
    if total and partial.stat().st_size != total:
        raise OSError(f"the connection ended at {partial.stat().st_size} of {total} bytes")


def _unpack(archive: Path, target: Path) -> None:
    """Unpack a .zip to the folder `target`, all or nothing, and drop the archive."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if not (partial / name).resolve().is_relative_to(partial.resolve()):
                raise OSError(f"{archive} holds a path outside itself: {name}")
        content.extractall(partial)
    partial.rename(target)
    archive.unlink()

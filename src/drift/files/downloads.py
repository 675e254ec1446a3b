"""Download a file from a URL, resumably, and unpack a .zip; nothing that is broken is kept.

A download goes on only in the very version that it began with: the server is asked for it by its
strong ETag (If-Range) and must say so again, with the right bytes (Content-Range). Without one it
begins anew. What is larger than it may be, slower than `SLOWEST`, a web page, or of another SHA-256
than was published is an error.
"""

import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from requests import Response
from tqdm import tqdm

from drift.files.checksums import checksum
from drift.files.connection import Connection

TIMEOUT = 60.0  # seconds for an answer, and for each piece of it
PIECE = 1 << 20  # bytes; so 17 kB/s is as slow as a download may be
LARGEST = 20 << 30  # bytes of a file of which no size is known
SPARE, LEAST = 4, 1 << 30  # a file may be so many times as large as is said, and always a GiB
# What a .zip may grow to when it is unpacked: weights hardly do, texts tenfold.
GROWTH, SMALL = 10, 16 << 20
REDIRECTS = 10
MOST = 10_000  # files in a .zip
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def largest(size: str) -> int:
    """Bytes that a file of this stated size ("about 343 MB") may have; LARGEST if none is."""
    found = re.search(r"([\d.]+) (kB|MB|GB)", size)
    return max(LEAST, int(float(found[1]) * UNITS[found[2]] * SPARE)) if found else LARGEST


@dataclass(frozen=True)
class Version:
    """Of a file at its server."""

    etag: str  # a strong one
    total: int  # bytes


def download(url: str, file: Path, *, limit: int = LARGEST, sha256: str = "") -> None:
    """Fetch `url` to `file`, going on where an interrupted download of that version stopped.

    `limit`: bytes at most. `sha256`: what is published; empty if nothing is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with Connection() as connection:
        _bring(connection, url, partial, limit)
    if _is_page(partial):
        _drop(partial)
        raise OSError("what came is a web page, not the file: does this network want a login?")
    if sha256 and (found := checksum(partial)) != sha256:
        _drop(partial)
        raise OSError(f"what came has SHA-256 {found}, not the published {sha256}")
    partial.replace(file)
    _drop(partial)


def _bring(connection: Connection, url: str, partial: Path, limit: int) -> None:
    """All of the file in `partial`."""
    held, version = _held(partial)
    if version and held == version.total <= limit:
        return
    ranged = {"Range": f"bytes={held}-", "If-Range": version.etag} if version else {}
    answer = _ask(connection, url, ranged)
    if version and answer.status_code != 200 and not _goes_on(answer, held, version):
        answer.close()
        answer = _ask(connection, url, {})
    held = held if answer.status_code == 206 else 0
    _check(answer)
    total = version.total if version and held else _length_of(answer)
    if total is not None and total > limit:
        raise OSError(f"the file has {total} bytes, more than the {limit} that it may have")
    if not held:
        _drop(partial)
        _remember(answer, total, partial)
    _write(connection, answer, partial, held=held, total=total, limit=limit)


def _ask(connection: Connection, url: str, headers: dict[str, str]) -> Response:
    """The answer at the end of all redirects, none of which may leave encryption."""
    for _ in range(REDIRECTS):
        answer = connection.ask("GET", url, seconds=TIMEOUT, headers=headers)
        target = answer.headers.get("Location")
        if answer.status_code not in (301, 302, 303, 307, 308) or not target:
            return answer
        answer.close()
        onward = urljoin(url, target)
        if url.startswith("https:") and not onward.startswith("https:"):
            raise OSError("the server leads to an address without encryption")
        url = onward
    raise OSError(f"the server leads on and on, over {REDIRECTS} addresses")


def _check(answer: Response) -> None:
    """Refuse what is no file, or came another way than was asked for."""
    if answer.status_code not in (200, 206):
        raise OSError(f"the server answers {answer.status_code}")
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise OSError(f"the server sends it encoded as {coding!r:.40}, which was not asked for")
    if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise OSError("the server sends a web page, not the file: does this network want a login?")


def _length_of(answer: Response) -> int | None:
    """Bytes of the body; None if it comes in chunks, which have an end of their own."""
    told = answer.headers.get("Content-Length", "")
    if "chunked" in answer.headers.get("Transfer-Encoding", "").lower():
        return None
    if not re.fullmatch(r"\d{1,15}", told, re.ASCII):
        raise OSError("the server does not say how large the file is")
    return int(told)


def _goes_on(answer: Response, held: int, version: Version) -> bool:
    """Whether the answer is the rest of that version, from byte `held` on."""
    rest = f"bytes {held}-{version.total - 1}/{version.total}"
    same = answer.headers.get("ETag") == version.etag
    return answer.status_code == 206 and same and answer.headers.get("Content-Range") == rest


def _write(
    connection: Connection,
    answer: Response,
    partial: Path,
    held: int,
    total: int | None,
    limit: int,
) -> None:
    """The body behind what `partial` holds already, to its end."""
    name = partial.name.removesuffix(".partial")
    bar = tqdm(total=total, initial=held, unit="B", unit_scale=True, desc=name)
    with partial.open("ab" if held else "wb") as out, bar:
        try:
            while piece := connection.read(answer, PIECE, seconds=TIMEOUT):
                held += len(piece)
                if held > (limit if total is None else total):
                    raise OSError(f"more than {limit if total is None else total} bytes came")
                out.write(piece)
                bar.update(len(piece))
        finally:
            out.flush()
            os.fsync(out.fileno())
    if total is not None and held != total:
        raise OSError(f"the connection ended at {held} of {total} bytes")


def _about(partial: Path) -> Path:
    """Which version a partial download is of."""
    return partial.with_name(partial.name + ".json")


def _remember(answer: Response, total: int | None, partial: Path) -> None:
    etag = answer.headers.get("ETag", "")
    if total is not None and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):  # W/"..." is a weak one
        _about(partial).write_text(json.dumps(asdict(Version(etag, total))), encoding="utf-8")


def _held(partial: Path) -> tuple[int, Version | None]:
    """The bytes of a partial download and of which version; none if that is not known."""
    try:
        version = Version(**json.loads(_about(partial).read_text(encoding="utf-8")))
        held = partial.stat().st_size
        return (held, version) if 0 < held <= version.total else (0, None)
    except (OSError, ValueError, TypeError):  # absent, or cut while it was written
        return 0, None


def _drop(partial: Path) -> None:
    for path in (partial, _about(partial)):
        path.unlink(missing_ok=True)


def _is_page(file: Path) -> bool:
    with file.open("rb") as content:
        start = content.read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .zip to the folder `target`, all or nothing, and drop the archive.

    One that is damaged or odd is dropped too, for to unpack it again would be no better.
    """
    partial = target.with_name(target.name + ".unpacked")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            if told := _oddity(content.infolist(), archive.stat().st_size):
                raise zipfile.BadZipFile(told)
            content.extractall(partial)
    except _DAMAGED as error:
        shutil.rmtree(partial, ignore_errors=True)
        archive.unlink(missing_ok=True)
        told = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{archive.name} is no .zip that could be unpacked: {told:.200}") from error
    except OSError:  # the disk's: the archive is fine
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(target)
    archive.unlink()


# All that zipfile raises for what it cannot read.
_DAMAGED: Any = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted; NotImplementedError: an unknown compression
    LookupError,
    OverflowError,
)


def _oddity(entries: Iterable[zipfile.ZipInfo], size: int) -> str:
    """What speaks against unpacking a .zip of `size` bytes with these entries; empty if nothing."""
    entries = list(entries)
    paths = [PurePosixPath(entry.filename.replace("\\", "/")) for entry in entries]
    outside = [p for p in paths if p.is_absolute() or ".." in p.parts or ":" in str(p)]
    files = {path for path, entry in zip(paths, entries, strict=True) if not entry.is_dir()}
    unpacked, allowed = sum(entry.file_size for entry in entries), max(SMALL, GROWTH * size)
    if outside:
        return f"it holds a path outside itself: {outside[0]}"
    if len(entries) > MOST:
        return f"it holds {len(entries)} files, more than {MOST}"
    if unpacked > allowed:
        return f"its {size} bytes would become {unpacked}, more than {allowed}"
    if any(above in files for path in files for above in path.parents):
        return "one of its files is also a folder"
    if any(len(os.fsencode(part)) > 255 for path in paths for part in path.parts):
        return "it holds a name that is too long"
    return ""

"""Pictures of an evaluation on their way: chunks of prompts, drawn and kept one by one.

A chunk is there whole or not at all, and ends in its own SHA-256. So what
was interrupted goes on with the chunks that are missing, and processes that see the same folder
share the work. The folder's name tells what the pictures are of, so that a leftover of other
settings or weights is never taken for them.
"""

import hashlib
import io
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drift.errors import UserError
from drift.evaluation.measures import Pixels
from drift.evaluation.settings import JUDGING
from drift.files.writing import replacing

DIGEST = hashlib.sha256().digest_size  # bytes at a chunk's end
IMAGES = 40  # about as many in a chunk, whole prompts; an interruption costs no more


@dataclass(frozen=True)
class Chunks:
    """The pictures for one evaluation, `images` of each of `prompts`; `folder` may not exist yet.

    What a chunk holds does not depend on the batch size or on who draws it.
    """

    folder: Path
    prompts: int
    images: int

    @property
    def all(self) -> list[range]:
        """Prompts of each chunk, by their numbers."""
        at_once = max(1, IMAGES // self.images)
        starts = range(0, self.prompts, at_once)
        return [range(p, min(p + at_once, self.prompts)) for p in starts]

    def _file(self, chunk: range) -> Path:
        return self.folder / f"prompts-{chunk.start:05d}.npy"

    def has(self, chunk: range) -> bool:
        return self._file(chunk).is_file()

    @property
    def missing(self) -> list[range]:
        return [chunk for chunk in self.all if not self.has(chunk)]

    def write(self, chunk: range, pixels: Pixels) -> None:
        """Put the chunk there at once; two that write the same one do no harm."""
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        content = buffer.getvalue()
        tag = f".{uuid.uuid4().hex}"
        with replacing(self._file(chunk), field="evaluate", tag=tag) as partial:
            partial.write_bytes(content + hashlib.sha256(content).digest())

    def read(self, chunk: range) -> Pixels | None:
        """The pictures of a chunk; None if it is not there, or not as it was written."""
        try:
            data = self._file(chunk).read_bytes()
        except OSError:
            return None
        content, digest = data[:-DIGEST], data[-DIGEST:]
        whole = hashlib.sha256(content).digest() == digest
        return np.load(io.BytesIO(content), allow_pickle=False) if whole else None


def chunks_of(folder: Path, wanted: dict[str, Any]) -> Chunks:
    """Chunks of the evaluation that will lie in `folder`, beside it: .step-000020.<what>.partial"""
    settings = wanted["settings"]
    drawn = {key: value for key, value in settings.items() if key not in JUDGING}
    what = json.dumps([drawn, wanted["model"]["sha256"], wanted["adapter"], IMAGES], sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:12]
    partial = folder.with_name(f".{folder.name}.{digest}.partial")
    return Chunks(partial, len(settings["prompts"]), settings["images_per_prompt"])


def clear_leftovers(folder: Path) -> None:
    """Chunks and half-written folders of an evaluation, which is whole now, go."""
    for leftover in folder.parent.glob(f".{folder.name}.*partial"):
        shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class Share:
    """The part of the drawing that is this process's: every `parts`-th chunk, from `part` on.

    The first one also judges, and waits for the chunks of the others.
    """

    part: int = 1
    parts: int = 1

    @property
    def judges(self) -> bool:
        return self.part == 1

    def of(self, chunks: Chunks) -> list[range]:
        return chunks.all[self.part - 1 :: self.parts]


WHOLE = Share()


def parse_share(text: str) -> Share:
    """R/N, from 1/N to N/N."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"share: '{text}' is not R/N with R from 1 to N, as in 1/2 and 2/2")
    return Share(int(part), int(parts))

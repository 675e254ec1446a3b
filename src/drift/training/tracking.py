"""What a run writes about itself: environment.json once, metrics.jsonl one line per update.

live.jsonl, one line per look (`drift.training.live`), is written and read the same way. An error
that ended the run leaves error.txt.
"""

import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drift.errors import UserError
from drift.files.connection import without_credentials
from drift.files.records import complete_lines, count_lines, parse_object, read_lines
from drift.files.writing import append_text, replacing

METRICS, LIVE, ERROR = "metrics.jsonl", "live.jsonl", "error.txt"
PACKAGES = ("drift-rft", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """Versions, device and revision: what someone needs to repeat the run."""
    return {
        "command": without_credentials(" ".join(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git": _revision(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _revision() -> str | None:
    """The commit that the code is of; None where there is no git, or it is of none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return told.stdout.strip() or None


@contextmanager
def keep_traceback(run: Path) -> Iterator[None]:
    """Write the traceback of an error that ends the run, and is told in a line, to error.txt."""
    with suppress(OSError):
        (run / ERROR).unlink(missing_ok=True)  # an earlier one's, before this resume
    try:
        yield
    except UserError as error:
        with suppress(OSError):  # the error is what counts
            (run / ERROR).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise


class Stopwatch:
    """Seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap under `stage`, a card's own work included."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def append_metrics(run: Path, lines: list[dict[str, Any]], name: str = METRICS) -> None:
    """Add lines, which are on the disk before anything is that counts on them."""
    append_text(run / name, "".join(json.dumps(line) + "\n" for line in lines), field="output")


def read_metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """Every complete line; one that is being written, or was cut off, is not there yet."""
    return read_lines(run / name, field="output")


def course(run: Path) -> dict[str, Any]:
    """What a checkpoint remembers of the lines that are there: their number and SHA-256."""
    files = {name: complete_lines(run / name) for name in (METRICS, LIVE)}
    return {name: count_lines(lines) for name, lines in files.items() if lines}


def finished_lines(
    run: Path, epochs: int, name: str, known: dict[str, Any] | None = None
) -> list[bytes]:
    """The lines of finished `epochs`; the later ones a resumed run writes again.

    `known`: what the checkpoint remembers of them. Where they are others, or one cannot be read,
    it is an error; that the whole file is gone is said, and damage in later lines as well.
    """
    path = run / name
    lines = complete_lines(path)
    of = [_epoch_of(line) for line in lines]
    if known is None:
        kept = [k for k, epoch in enumerate(of) if epoch is not None and epoch <= epochs]
        count = kept[-1] + 1 if kept else 0
    else:
        kept = list(range(min(known["lines"], len(lines))))
        count = known["lines"]
    if known and not path.exists():
        tqdm.write(f"{path} is gone: the run goes on without what it told of {epochs} epochs")
        return []
    bad = [number for number, epoch in enumerate(of[:count], 1) if epoch is None]
    others = known is not None and count_lines(lines[:count]) != known
    if bad or others:
        what = f"line {bad[0]} is damaged" if bad else f"not the {count} lines that it had"
        raise UserError(
            f"output: {path}: {what} after epoch {epochs}, the last that was saved; put back a "
            "copy of it, or move it away to go on without what it told"
        )
    if None in of[count:]:
        number = count + of[count:].index(None) + 1
        tqdm.write(f"{path}: line {number} was damaged; its epoch is trained again")
    return [lines[k] for k in kept]


def _epoch_of(line: bytes) -> int | None:
    """The epoch that a line is of; None if it is damaged."""
    try:
        epoch = parse_object(line).get("epoch")
    except ValueError:
        return None
    return epoch if isinstance(epoch, int) else None


def keep_lines(run: Path, name: str, lines: list[bytes]) -> None:
    """Have these lines alone in a file, if it is there."""
    path, content = run / name, b"".join(lines)
    if path.exists() and path.read_bytes() != content:
        with replacing(path, field="output") as partial:
            partial.write_bytes(content)

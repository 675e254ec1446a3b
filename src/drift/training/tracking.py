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

from drift.errors import UserError
from drift.files.connection import without_credentials

METRICS, LIVE, ERROR = "metrics.jsonl", "live.jsonl", "error.txt"
PACKAGES = ("drift-rft", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """Versions, device and revision: what someone needs to repeat the run."""
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": without_credentials(" ".join(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git": revision.stdout.strip() or None,
        "packages": {name: version(name) for name in PACKAGES},
    }


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
    with (run / name).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def read_metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """Every complete line; one that is being written, or was cut off, is not there yet."""
    path = run / name
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def truncate_metrics(run: Path, epochs: int, name: str = METRICS) -> None:
    """Keep the lines of finished `epochs` only: a resumed run writes the later ones again."""
    if not (run / name).exists():
        return
    kept = [line for line in read_metrics(run, name) if line["epoch"] <= epochs]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    partial = run / f"{name}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(run / name)

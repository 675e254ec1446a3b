"""What a run writes about itself: environment.json once, metrics.jsonl one line per update.

live.jsonl, one line per look (`drift.training.live`), is written and read the same way.
"""

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

METRICS, LIVE = "metrics.jsonl", "live.jsonl"
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
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git": revision.stdout.strip() or None,
        "packages": {name: version(name) for name in PACKAGES},
    }


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

"""What `python -m benchmarks gpu` measures with: the report, and the recipe's parts on a device."""

import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import published
from benchmarks.epochs import TINY
from drift.config import TrainConfig
from drift.models.stable_diffusion import StableDiffusion
from drift.pixels import CLIP_MEAN, CLIP_STD, crop, normalise
from drift.recipes import load_recipe
from drift.rewards.clip_score import ClipScore
from drift.training.policy import make_trainable, use_tf32
from drift.types import ImageEncoder, Reward, Rollout

Row = dict[str, Any]


@dataclass
class Report:
    """What was measured until now; on disk after every row, if it has a file."""

    file: Path | None
    deadline: float  # of time.monotonic
    rows: dict[str, Row] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, name: str, need: float, work: Callable[[], Row]) -> None:
        """Measure a row, unless fewer than `need` seconds are left; an error is a row as well."""
        if self.deadline - time.monotonic() < need:
            self.left_out.append(name)
            print(f"{name}: left out, no time")
        else:
            start = time.monotonic()
            try:
                row = work()
            except Exception as error:  # noqa: BLE001 - the card is lent for minutes: go on
                row = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
            gc.collect()
            torch.cuda.empty_cache()
            self.rows[name] = row | {"took": time.monotonic() - start}
            print(f"{name}: {json.dumps(short(self.rows[name]))}", flush=True)
        if self.file is not None:
            told = {"rows": self.rows, "left_out": self.left_out}
            self.file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def short(value: Any) -> Any:
    """The same with three digits a number, to be read."""
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


@dataclass
class Bench:
    """The parts of the recipe on the device; the policy is made again for another dtype."""

    size: str
    device: torch.device
    reward: Reward
    encoder: ImageEncoder
    config: TrainConfig
    peak: dict[str, float] = field(default_factory=dict)  # measured FLOP/s by dtype
    flops: float = 0.0  # of a row of the UNet, forward
    policy: StableDiffusion | None = None
    kept: Rollout | None = None

    def timed(self, work: Callable[[], object], repeats: int = 1) -> float:
        """Seconds of one call."""
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - start) / repeats

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def load(self, dtype: str) -> tuple[StableDiffusion, TrainConfig]:
        """A policy with a fresh LoRA, in place of the one before."""
        wanted: Any = dtype  # one of three, as a configuration has them
        config = replace(self.config, model=replace(self.config.model, dtype=wanted))
        name = getattr(torch, dtype)
        if self.policy is None or self.policy.dtype != name:
            self.policy = self.kept = None
            gc.collect()
            use_tf32(dtype != "float32")
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as words, torch.device(self.device):
                pipe = published.policy(self.size, Path(words), name)
            self.policy = StableDiffusion(pipe, self.device, name)
            make_trainable(self.policy, config)
        return self.policy, config

    def share(self, rows: float, seconds: float, dtype: str) -> float | None:
        """Of the measured peak, for so many forward rows of the UNet; a backward pass is two."""
        best = self.peak.get(dtype)
        return rows * self.flops / seconds / best if best else None


def open_bench(size: str, device: torch.device) -> Bench:
    small = TINY if size == "tiny" else []
    part = ["sampling.prompts_per_epoch=1", "optimizer.updates_per_epoch=1"]
    config = load_recipe("sd15-pickscore", [f"device={device}", *small, *part])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as words, torch.device("meta"):
        tokenizer = published.policy("tiny", Path(words), torch.float32).tokenizer
    with torch.device(device):
        clip = published.reward(size, tokenizer).eval().requires_grad_(False)
        encoder = published.encoder(size).eval().requires_grad_(False)
    side = clip.config.vision_config.image_size
    reward = ClipScore(
        clip, tokenizer, lambda images: normalise(crop(images, side), CLIP_MEAN, CLIP_STD)
    )
    return Bench(size, device, reward, encoder, config)

"""One model's evaluation: draw its pictures, judge them, and put the folder in its place.

Pictures are rounded to 8 bits before anything is measured, so that every figure can be computed
again from the stored `images.npz`: where only the judges are new, nothing is drawn.
"""

import json
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from drift.config import TrainConfig
from drift.evaluation import stored
from drift.evaluation.chunks import Chunks, chunks_of, clear_leftovers
from drift.evaluation.measures import Judges, Pixels, measure, measure_against
from drift.evaluation.progress import Progress
from drift.evaluation.settings import JUDGING
from drift.evaluation.sheets import contact_sheet, webp
from drift.files.manifest import seal
from drift.files.writing import replacing
from drift.methods.parts.conditioning import CleanPrompt
from drift.pixels import to_pixels
from drift.training.checkpoint import Checkpoint
from drift.training.cuts import cut_prompts
from drift.training.policy import load_policy, put_weights
from drift.training.rollout import draw_by
from drift.types import PolicyModel

PACKAGES = ("drift-rft", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Job:
    """A model to judge: a checkpoint of a run, or a base model."""

    folder: Path  # of its evaluation
    config: TrainConfig
    checkpoint: Checkpoint | None
    wanted: dict[str, Any]  # settings, model and adapter, by which a complete one is known
    base: Path  # evaluation of its base model
    copies: tuple[Path, ...] = ()  # where else a base model's is to lie

    @property
    def name(self) -> str:
        return f"{stored.run_of(self.folder).name} {self.folder.name}"

    @property
    def prompts(self) -> list[str]:
        return self.wanted["settings"]["prompts"]

    @property
    def images(self) -> int:
        """Of each prompt."""
        return self.wanted["settings"]["images_per_prompt"]

    @property
    def chunks(self) -> Chunks:
        return chunks_of(self.folder, self.wanted)

    @property
    def complete(self) -> bool:
        return stored.is_same(self.folder, self.wanted)

    @property
    def drawn(self) -> bool:
        """Whether an evaluation by other judges has the very pictures."""
        there = (self.folder / "images.npz").is_file()
        return there and stored.is_same(self.folder, self.wanted, ignore=JUDGING)

    @property
    def ready(self) -> bool:
        """Whether all pictures are there, to be judged."""
        return not self.chunks.missing or self.drawn

    @property
    def passes(self) -> tuple[int, int]:
        """Through a network, for an image: to draw it (guidance takes two a step), to judge it."""
        s = self.wanted["settings"]
        drawing = s["steps"] * (1 if s["guidance_scale"] == 1 else 2)
        return drawing, len(s["rewards"]) + len(s["encoders"]) + s["judge"]


class Policy:
    """The model in memory; it is loaded anew only where the next job wants another."""

    def __init__(self):
        self.model: PolicyModel | None = None
        self.made_from: Any = None
        self.weights: Path | None = None  # the checkpoint's that are on it
        self.told: set[str] = set()

    def of(self, job: Job) -> PolicyModel:
        made_from = job.config.model, job.config.device
        weights = job.checkpoint.folder if job.checkpoint else None
        stale = made_from != self.made_from or (weights is None and self.weights is not None)
        if self.model is None or stale:
            self.model = None  # two would not fit
            self.model, self.made_from, self.weights = load_policy(job.config), made_from, None
            for line in {*cut_prompts(self.model, job.prompts)} - self.told:
                tqdm.write(line)
                self.told.add(line)
        if weights is not None and weights != self.weights:
            put_weights(self.model, job.config, weights)
        self.weights = weights
        return self.model


def draw(job: Job, chunk: range, model: PolicyModel) -> Pixels:
    """Image k of each of the chunk's prompts from seed `settings.seed + k`."""
    settings, conditioning = job.wanted["settings"], job.config.method.conditioning.at_test()
    seeds = [settings["seed"] + k for k in range(job.images)]
    drawn = draw_by(
        model,
        job.prompts[chunk.start : chunk.stop],
        [seeds] * len(chunk),
        settings,
        batch_size=job.config.evaluation.batch_size,
        conditioning=conditioning if job.checkpoint else CleanPrompt(),
    )
    return to_pixels(drawn.images)


def draw_missing(job: Job, mine: list[range], policy: Policy, progress: Progress) -> None:
    """Draw those of the chunks that no other process has drawn meanwhile."""
    for chunk in mine:
        progress.show(f"{job.name}: drawing prompt {chunk.start + 1} of {len(job.prompts)}")
        if not job.chunks.has(chunk):
            job.chunks.write(chunk, draw(job, chunk, policy.of(job)))
        progress.advance(job.passes[0] * job.images * len(chunk))


def gather(job: Job, policy: Policy) -> Pixels:
    """All pictures, every chunk of which is there; one that was damaged is drawn again."""
    pieces = []
    for chunk in job.chunks.all:
        pixels = job.chunks.read(chunk)
        if pixels is None:
            tqdm.write(f"{job.name}: chunk {chunk.start} was damaged, and is drawn again")
            pixels = draw(job, chunk, policy.of(job))
        pieces.append(pixels)
    return np.concatenate(pieces)


def judge(job: Job, judges: Judges, policy: Policy, seconds: float, progress: Progress) -> None:
    """Measure the pictures, all of which are there, and write the evaluation."""
    start = time.perf_counter()
    pixels = stored.read_pictures(job.folder) if job.drawn else gather(job, policy)
    work = job.passes[1] * job.images

    def judged(p: int) -> None:
        progress.advance(work)
        progress.show(f"{job.name}: judged prompt {p + 1} of {len(job.prompts)}")

    if pixels.shape[2:4] != (64, 64):
        judges = replace(judges, probe=None)  # it knows the Menagerie's pictures only
    progress.show(f"{job.name}: judging")
    figures, features = measure(pixels, job.prompts, judges, judged)
    reference = load_file(job.base / "features.safetensors") if job.checkpoint else features
    figures |= measure_against(features, reference)
    metrics = {
        "format": stored.FORMAT,
        "sealed": True,
        "step": job.checkpoint.epoch if job.checkpoint else 0,
        **job.wanted,
        "images": pixels.shape[0] * pixels.shape[1],
        "seconds": round(seconds + time.perf_counter() - start, 1),
        "packages": {name: version(name) for name in PACKAGES},
        "figures": figures,
    }
    _write(job, metrics, pixels, features)


def _write(job: Job, metrics: dict, pixels: Pixels, features: dict[str, Tensor]) -> None:
    """All files of an evaluation, then their manifest; the chunks are not needed any more."""
    sheet = webp(contact_sheet(pixels, job.prompts))
    text = json.dumps(metrics, indent=1, allow_nan=False, ensure_ascii=False)
    with replacing(job.folder, field="evaluate") as whole:
        whole.mkdir()
        np.savez_compressed(whole / "images.npz", images=pixels)
        save_file({n: E.contiguous() for n, E in features.items()}, whole / "features.safetensors")
        (whole / "sheet.webp").write_bytes(sheet)
        (whole / stored.METRICS).write_text(text, encoding="utf-8")
        seal(whole, step=metrics["step"])
    clear_leftovers(job.folder)

"""Judge base models and checkpoints of runs, all on the same prompts, seeds and sampler.

In which order, what is there already, and who draws what; `targets` tells which, `jobs` does it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from drift.encoders import load_encoder
from drift.errors import UserError
from drift.evaluation import stored
from drift.evaluation.chunks import WHOLE, Share, clear_leftovers
from drift.evaluation.jobs import Job, Policy, draw_missing, judge
from drift.evaluation.measures import Judges
from drift.evaluation.progress import Progress
from drift.evaluation.settings import JUDGING, parse_changes
from drift.evaluation.targets import Target, keep_others, open_probe, open_targets, plan_jobs
from drift.files.locks import together
from drift.files.writing import replacing
from drift.training.policy import pick_device
from drift.training.scoring import open_rewards

POLL = 1.0  # seconds between looks at what other processes have drawn
PATIENCE = 600.0  # seconds without anything new from them


def evaluate(
    targets: Sequence[Path],
    *,
    checkpoints: str = "last",
    base: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
    share: Share = WHOLE,
    out: Path | None = None,
    name: str = stored.DEFAULT,
    overwrite: bool = False,
    allow_code: bool = False,
) -> list[Path]:
    """Evaluate runs' base models and chosen checkpoints, or plain models; returns the folders.

    `checkpoints`: all, last, base, or epochs ("20,40"). `base`: a run or evaluation folder whose
    base evaluation is shared. `overrides` and `options` change fields of `evaluation`. A plain
    model's evaluation goes to `out`, default runs/<its name>. What is complete is left as it is.
    A run keeps an evaluation for each `name`; pictures of other settings under this name are an
    error, unless they are to be replaced: `overwrite`. Rewards that are code which only a run names
    are an error if it is not known here, unless `allow_code`.
    """
    stored.check_name(name)
    changes = parse_changes(overrides, options)
    opened = open_targets(targets, changes, checkpoints, out, allow_code=allow_code)
    if not overwrite:
        keep_others(opened, name)
    jobs = plan_jobs(opened, name)
    if base:
        jobs = [job for job in jobs if share.judges or job.checkpoint]
    with ExitStack() as stack:
        if not all(job.complete for job in jobs):
            for target in opened:
                stack.enter_context(_held(target, name, share))
        for job in jobs:
            if base and job.checkpoint is None and not job.complete:
                _bring_base(base, job, name)
        todo = []
        for job in jobs:
            if job.complete:
                tqdm.write(f"{job.folder} is complete already, with these settings")
                _copy_base(job)
            else:
                todo.append(job)
        if todo:
            _work_through(todo, share)
    return [
        stored.evaluation_folder(target.run, step, name)
        for target in opened
        for step in (0, *(checkpoint.epoch for checkpoint in target.chosen))
    ]


def _held(target: Target, name: str, share: Share) -> AbstractContextManager[None]:
    """A run's evaluations of this name, for this process and other shares of the same one."""
    what = json.dumps([target.wanted["settings"], target.wanted["model"]["sha256"], share.parts])
    return together(
        stored.evaluations_folder(target.run, name),
        member=f"share-{share.part}",
        purpose=hashlib.sha256(what.encode()).hexdigest()[:12],
        field="evaluate",
        advice="wait until it is done, give another --name, or share one by --share 1/2 and 2/2",
    )


def _bring_base(base: Path, job: Job, name: str) -> None:
    """Copy a base model's evaluation from another run, if of the same pictures."""
    source = stored.evaluation_folder(base, 0, name) if (base / "evaluations").is_dir() else base
    found = stored.read_evaluation(source)
    if found is None:
        raise UserError(f"base: {base} holds no evaluation of a base model")
    different = stored.first_difference(found, job.wanted, ignore=JUDGING)
    if different or found["adapter"]:
        told = different or "with trained weights"
        raise UserError(f"base: {source} was evaluated differently: {told}")
    _copy(source, job.folder)


def _copy_base(job: Job) -> None:
    """Lay a base model's evaluation beside the other runs' own."""
    for folder in job.copies:
        if not stored.is_same(folder, job.wanted):
            _copy(job.folder, folder)


def _copy(source: Path, folder: Path) -> None:
    if source.resolve() != folder.resolve():
        with replacing(folder, field="evaluate") as partial:
            shutil.copytree(source, partial)
        clear_leftovers(folder)


def _open_judges(job: Job) -> Judges:
    config, settings = job.config, job.wanted["settings"]
    device, told = str(pick_device(config.device)), settings.get("fields", {})
    fields = {prompt: told.get(prompt, {}) for prompt in job.prompts}
    return Judges(
        open_rewards(settings["rewards"], config.reward_worker, device, fields),
        {n: load_encoder(n, device, policy=config.model.name) for n in settings["encoders"]},
        open_probe() if settings["judge"] else None,
    )


def _work_through(todo: list[Job], share: Share) -> None:
    """Draw this process's share of every job in turn; judge each as soon as all of it is there.

    Judges are opened first, so that one that is missing is told before anything is drawn.
    """
    judges: dict[str, Judges] = {}  # by model, since a judge may be a part of it
    missing: list[tuple[Job, list[range]]] = []
    total = done = 0
    for job in todo:
        if share.judges and job.config.model.name not in judges:
            judges[job.config.model.name] = _open_judges(job)
        mine = [] if job.drawn else share.of(job.chunks)
        missing.append((job, [chunk for chunk in mine if not job.chunks.has(chunk)]))
        drawing, judging = (job.images * passes for passes in job.passes)
        total += drawing * sum(map(len, mine)) + judging * len(job.prompts) * share.judges
        done += drawing * sum(len(chunk) for chunk in mine if chunk not in missing[-1][1])
    policy, drawn = Policy(), list[tuple[Job, float]]()
    with Progress(total, done) as progress:
        for job, chunks in missing:
            start = time.perf_counter()
            if job.config.threads:
                torch.set_num_threads(job.config.threads)
            draw_missing(job, chunks, policy, progress)
            drawn.append((job, time.perf_counter() - start))
            while share.judges and drawn and drawn[0][0].ready:
                _finish(*drawn.pop(0), judges, policy, progress)
        for job, seconds in drawn if share.judges else []:
            _wait(job, share, progress)
            _finish(job, seconds, judges, policy, progress)
    if not share.judges:
        tqdm.write(f"share {share.part}/{share.parts} is drawn; share 1/{share.parts} judges it")


def _wait(job: Job, share: Share, progress: Progress) -> None:
    """Until the other shares have drawn their chunks; none that comes in PATIENCE is an error."""
    if not job.ready:
        tqdm.write(f"{job.name}: waiting for the other shares")
    left, since = -1, 0.0
    while not job.ready:
        missing = job.chunks.missing
        if len(missing) != left:
            left, since = len(missing), time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            owners = sorted({job.chunks.all.index(chunk) % share.parts + 1 for chunk in missing})
            asked = " and ".join(f"--share {part}/{share.parts}" for part in owners)
            raise UserError(
                f"share: {job.name} waits for prompts {missing[0].start + 1} to "
                f"{missing[-1].stop}, and none came for {PATIENCE / 60:g} minutes; start the same "
                f"command with {asked}, then this one again, or without --share"
            )
        progress.show(f"{job.name}: waiting for {sum(map(len, missing))} prompts of other shares")
        time.sleep(POLL)


def _finish(
    job: Job, seconds: float, judges: dict[str, Judges], policy: Policy, progress: Progress
) -> None:
    judge(job, judges[job.config.model.name], policy, seconds, progress)
    _copy_base(job)
    progress.say(f"wrote {job.folder}")

"""Judge base models and checkpoints of runs, all on the same prompts, seeds and sampler.

Which models, in which order, what is there already, and who draws what; `jobs` does it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from drift.config import TrainConfig
from drift.encoders import load_encoder
from drift.errors import UserError
from drift.evaluation import stored
from drift.evaluation.chunks import WHOLE, Share, clear_leftovers
from drift.evaluation.jobs import Job, Policy, draw_missing, judge
from drift.evaluation.measures import Judges
from drift.evaluation.progress import Progress
from drift.evaluation.settings import JUDGING, parse_changes, settings_of
from drift.files.checksums import joint, joint_checksum
from drift.files.hub import SHIPPED
from drift.files.locks import together
from drift.files.records import settings_difference
from drift.files.writing import replacing
from drift.menagerie.probe import load_probe
from drift.methods.parts.conditioning import CleanPrompt
from drift.models import adapter_files, is_model, locate_adapter, locate_model, model_files
from drift.rewards import refuse_strange_code
from drift.training import runs
from drift.training.checkpoint import Checkpoint
from drift.training.needs import record_judges
from drift.training.policy import pick_device
from drift.training.scoring import open_rewards

PROBE = SHIPPED / "probe"  # reads the Menagerie's ground truth off pictures
POLL = 1.0  # seconds between looks at what other processes have drawn
PATIENCE = 600.0  # seconds without anything new from them


@dataclass(frozen=True)
class Target:
    """A run, or a plain model with the folder that its evaluation goes to."""

    run: Path
    config: TrainConfig
    chosen: list[Checkpoint]
    wanted: dict[str, Any]  # settings, model and adapter, by which a complete evaluation is known


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
        _keep_others(opened, name)
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


def open_targets(
    targets: Sequence[Path],
    changes: dict[str, Any],
    checkpoints: str,
    out: Path | None,
    *,
    allow_code: bool = False,
) -> list[Target]:
    """What is to be judged, all by the same settings; or an error before anything is drawn."""
    if not targets:
        raise UserError("evaluate: name at least one run or model")
    opened: list[Target] = []
    hashes: dict[Path, str] = {}
    for path in targets:
        config, is_run = runs.open_target(path, changes), runs.is_run(path)
        if is_run and not allow_code and "rewards" not in changes:
            refuse_strange_code(config.judging_rewards, path)
        run = path if is_run else out or Path("runs") / (path.stem if path.is_file() else path.name)
        if run.resolve() in [other.run.resolve() for other in opened]:
            raise UserError(f"evaluate: two of these would be evaluated in {run}")
        if not is_model(locate_model(config.model.name)):
            raise UserError(
                f"evaluate: '{config.model.name}' is neither a run folder, with a config.yaml, "
                "nor a diffusers model, with a model_index.json, nor a file"
            )
        settings = settings_of(config, probed=PROBE.is_dir())
        settings["weights"] = record_judges(config, hashes)
        if settings["judge"]:
            settings["weights"]["ground truth"] = joint_checksum(PROBE.iterdir())
        different = opened and settings_difference(opened[0].wanted["settings"], settings)
        if different:
            raise UserError(
                f"evaluate: {targets[0]} and {path} would not be judged alike: {different}; "
                "give one value for all, by an option or KEY=VALUE"
            )
        chosen = runs.choose_checkpoints(run, checkpoints) if is_run else []
        known = _base_of(config, hashes)
        wanted = {"settings": settings, "model": known, "adapter": None}
        opened.append(Target(run, config, chosen, wanted))
    return opened


def _base_of(config: TrainConfig, hashes: dict[Path, str]) -> dict[str, str]:
    """Name and SHA-256 of what a run begins with: a model, and a LoRA if there is one."""
    model = config.model
    files = list(model_files(locate_model(model.name)).values())
    known = {"name": model.name, "sha256": joint_checksum(files, hashes)}
    if model.adapter:
        lora = joint_checksum(adapter_files(locate_adapter(model.adapter)).values(), hashes)
        begun = [("model", known["sha256"]), ("adapter", lora)]
        known = {"name": f"{model.name} + {model.adapter}", "sha256": joint(begun)}
    if model.prediction_type != "auto":
        begun = [("model", known["sha256"]), ("prediction_type", model.prediction_type)]
        known["sha256"] = joint(begun)
    return known


def _keep_others(targets: Sequence[Target], name: str) -> None:
    """Refuse to draw anew what lies under this name with other settings, at whatever step."""
    for target in targets:
        for step, found in stored.list_evaluations(target.run, name, tqdm.write).items():
            different = stored.first_difference(found, target.wanted, JUDGING, "{} then, {} now")
            if different:
                folder = stored.evaluation_folder(target.run, step, name)
                raise UserError(
                    f"evaluate: the pictures in {folder} are of other {different}; "
                    "keep both by another --name, or give --replace"
                )


def plan_jobs(targets: Sequence[Target], name: str = stored.DEFAULT) -> list[Job]:
    """Every base model once, where its evaluation is or is nearest to be, then its checkpoints."""
    alike: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        key = target.wanted["model"]["sha256"], target.config.model.dtype
        alike.setdefault(key, []).append(target)
    jobs: list[Job] = []
    for same in alike.values():
        bases = []
        for t in same:
            folder = stored.evaluation_folder(t.run, 0, name)
            bases.append(Job(folder, t.config, None, t.wanted, base=folder))
        home = max(bases, key=lambda job: 2 * job.complete + job.drawn)  # the first, if equal
        copies = tuple(job.folder for job in bases if job is not home)
        jobs.append(replace(home, copies=copies))
        for t in same:
            for checkpoint in t.chosen:
                folder = stored.evaluation_folder(t.run, checkpoint.epoch, name)
                wanted = t.wanted | {"adapter": _adapter(t.config, checkpoint)}
                jobs.append(Job(folder, t.config, checkpoint, wanted, base=home.folder))
    return jobs


def _adapter(config: TrainConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a checkpoint's pictures from the base model's."""
    conditioning = config.method.conditioning.at_test()
    told = {"epoch": checkpoint.epoch, "sha256": joint_checksum([checkpoint.weights])}
    return told if conditioning == CleanPrompt() else told | {"conditioning": asdict(conditioning)}


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
        load_probe(PROBE) if settings["judge"] else None,
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

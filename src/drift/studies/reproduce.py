"""`drift reproduce STUDY`: the runs of a study, their evaluation, and a page for each reward.

Whatever is complete is left as it is, so an interrupted study goes on by the same command, and
studies that have runs in common make them once.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from drift.studies.plans import STUDIES, Planned, plan_runs
from drift.studies.processes import judge_all, run_all
from drift.training.checkpoint import newest_checkpoint
from drift.training.costs import cost, judged_images
from drift.training.tracking import read_metrics


def finished(run: Planned) -> bool:
    """Whether its last checkpoint is there."""
    newest = newest_checkpoint(run.folder)
    return newest is not None and newest.epoch >= run.config.epochs


def tell(name: str, runs: Sequence[Planned], todo: Sequence[Planned], at_once: int) -> list[str]:
    """The plan and the cost of what is `todo`, in lines."""
    lines = [f"{name}: {STUDIES[name].shows}"]
    for run in runs:
        state = "to do" if run in todo else "done"
        lines.append(f"  {run.name:40} {run.config.epochs} epochs, {state}")
    costs = [cost(run.config) for run in todo]
    images = sum(c.images for c in costs)
    network = sum(c.network_evaluations for c in costs)
    lines.append(
        f"to train: {len(todo)} of {len(runs)} runs, {images:,} images sampled and scored, "
        f"{network:,} rows through the denoiser, {at_once} at a time"
    )
    judged = sum(judged_images(run.config) for run in todo)
    lines.append(f"to judge: {judged:,} images of their checkpoints, and the base model's")
    seconds = seconds_an_epoch(runs)
    if todo and seconds:
        hours = seconds * sum(run.config.epochs for run in todo) / at_once / 3600
        lines.append(f"time: about {hours:.1f} h, by the {seconds:.1f} s an epoch of runs so far")
    return lines


def seconds_an_epoch(runs: Sequence[Planned]) -> float | None:
    """Mean over what has been trained already; None if nothing has."""
    spent = {
        (run.name, line["epoch"]): sum(line["seconds"].values())
        for run in runs
        for line in read_metrics(run.folder)
    }
    return sum(spent.values()) / len(spent) if spent else None


def reproduce(
    name: str,
    *,
    world: str = "menagerie",
    budget: str = "small",
    seeds: int = 2,
    out: Path = Path("runs/studies"),
    at_once: int | None = None,
    dry_run: bool = False,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Make what is missing of a study; returns a page for each reward.

    `at_once`: runs at a time; by default two of one thread each, or one on a CUDA device.
    """
    on_card = torch.cuda.is_available()
    at_once = at_once or (1 if on_card else 2)
    threads = [] if on_card else ["threads=1"]
    runs = plan_runs(name, world, budget, seeds, out, [*threads, *overrides])
    todo = [run for run in runs if not finished(run)]
    for line in tell(name, runs, todo, at_once):
        say(line)
    if not find_spec("matplotlib"):
        say("no figures will be drawn: that needs `pip install 'drift-rft[figures]'`")
    if dry_run:
        return []
    start, logs = time.perf_counter(), out / f"{world}-{budget}" / "logs"
    _train(todo, logs, at_once)
    _evaluate(runs, logs, at_once)
    pages = _compare(name, runs, out / f"{world}-{budget}" / name, logs)
    for page in pages:
        found = json.loads((page.parent / "comparison.json").read_text(encoding="utf-8"))
        say(f"{page.parent.name}: {found['verdict'][0]}")
    say(f"{name}: done, {(time.perf_counter() - start) / 60:.1f} minutes now")
    return pages


def _bar(total: int, done: int, *, desc: str, unit: str) -> tqdm:
    """On a terminal it moves; in a log it is a line a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 60
    return tqdm(total=total, initial=done, mininterval=seconds, desc=desc, unit=unit)


def _train(runs: Sequence[Planned], logs: Path, at_once: int) -> None:
    commands = {}
    for run in runs:
        resume = ["--resume"] if (run.folder / "config.yaml").exists() else []
        commands[f"train-{run.name}"] = ["train", run.recipe, *run.overrides, "--quiet", *resume]
    before = {run.name: len(read_metrics(run.folder)) for run in runs}
    total = sum(run.config.epochs * run.config.optimizer.updates_per_epoch for run in runs)
    with _bar(total, sum(before.values()), desc="training", unit="update") as bar:

        def watch() -> None:
            bar.update(sum(len(read_metrics(run.folder)) for run in runs) - bar.n)

        run_all(logs, commands, at_once=at_once, watch=watch)


def _evaluate(runs: Sequence[Planned], logs: Path, at_once: int) -> None:
    """Every checkpoint of every run."""
    checkpoints = [f for run in runs for f in (run.folder / "checkpoints").glob("step-*")]
    expected = [f.parents[1] / "evaluations" / f.name / "metrics.json" for f in checkpoints]
    with _bar(len(expected), 0, desc="judging", unit="checkpoint") as bar:

        def watch() -> None:
            bar.update(sum(file.exists() for file in expected) - bar.n)

        judge_all(logs, {run.name: run.folder for run in runs}, at_once=at_once, watch=watch)


def _compare(name: str, runs: Sequence[Planned], out: Path, logs: Path) -> list[Path]:
    """A page for each reward: the study's first method over the others."""
    first, pages = STUDIES[name].methods[0], []
    for reward in dict.fromkeys(run.config.reward for run in runs):
        mine = [run for run in runs if run.config.reward == reward]
        ours = [str(run.folder) for run in mine if run.config.method_name == first]
        others = [str(run.folder) for run in mine if run.config.method_name != first]
        command = ["compare", *ours, "--baseline", *others, "--out", str(out / reward)]
        command += ["--figures"] if find_spec("matplotlib") else []
        run_all(logs, {f"compare-{name}-{reward}": command}, at_once=1)
        pages.append(out / reward / "report.html")
    return pages

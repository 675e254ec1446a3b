"""Compare runs by the files in their folders alone: one page, and its numbers as CSV and JSON."""

import csv
import io
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from drift.config import load_run_config
from drift.errors import UserError
from drift.report.arms import Compared, name_runs
from drift.report.render import render
from drift.report.runs import (
    evaluation_folder,
    first_difference,
    list_evaluations,
    read_training,
)
from drift.report.verdict import verdict


def read_runs(folders: Sequence[Path]) -> list[Compared]:
    """Everything the comparison needs; refuses runs that have not been evaluated."""
    if not folders:
        raise UserError("compare: name at least one run folder")
    seen = Counter(folder.resolve() for folder in folders)
    twice = [folder for folder in folders if seen[folder.resolve()] > 1]
    if twice:
        raise UserError(f"compare: {twice[-1]} is named twice")
    configs = [load_run_config(folder) for folder in folders]
    runs = []
    for label, folder, config in zip(name_runs(folders, configs), folders, configs, strict=True):
        evaluations = list_evaluations(folder)
        if 0 not in evaluations or len(evaluations) < 2:
            raise UserError(
                f"compare: {folder} has not been evaluated; do `drift evaluate {folder}`"
            )
        path = folder / "environment.json"
        environment = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        runs.append(
            Compared(label, folder, config, evaluations, read_training(folder), environment)
        )
    return runs


def check(runs: Sequence[Compared]) -> None:
    """Refuse evaluations of other prompts, seeds, rewards, samplers or base models; says which."""
    first = evaluation_folder(runs[0].run, 0)
    for run in runs:
        for step, metrics in run.evaluations.items():
            different = first_difference(runs[0].evaluations[0], metrics)
            if different:
                other = evaluation_folder(run.run, step)
                raise UserError(f"compare: {first} and {other} differ in their {different}")


def rows(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """A line for every figure of every evaluated checkpoint; the base model (step 0) once a run."""
    listed = []
    for run in runs:
        spent = {point["epoch"]: point for point in run.training}
        for step, metrics in run.evaluations.items():
            for name, figure in metrics["figures"].items():
                values = {key: figure[key] for key in ("mean", "stderr", "low", "high")}
                images = 0 if step == 0 else spent.get(step, {}).get("images")
                keys = {"run": run.label, "folder": str(run.run), "step": step, "figure": name}
                listed.append({**keys, **values, "images_sampled": images})
    return listed


def _csv(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _pictures(run: Compared, step: int) -> UInt8[np.ndarray, "P N H W 3"]:
    folder = evaluation_folder(run.run, step)
    try:
        with np.load(folder / "images.npz", allow_pickle=False) as stored:
            return stored["images"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"compare: cannot read {folder / 'images.npz'}: {error}") from error


def compare(folders: Sequence[Path], out: Path) -> Path:
    """Write `report.html`, `comparison.csv` and `comparison.json` to `out`; returns the page."""
    runs = read_runs(folders)
    check(runs)
    summary, sentences = verdict(runs)
    table = rows(runs)
    command = shlex.join(["drift", "compare", *map(str, folders), "--out", str(out)])
    written = {
        "report.html": render(runs, _pictures, command),
        "comparison.csv": _csv(table),
        "comparison.json": json.dumps(
            {
                "verdict": [summary, *sentences],
                "settings": runs[0].evaluations[0]["settings"],
                "rows": table,
            },
            indent=1,
            ensure_ascii=False,
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8")
    return out / "report.html"

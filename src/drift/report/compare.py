"""Compare runs by the files in their folders alone: a page, tables, and drawn figures."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tqdm import tqdm

from drift.config import load_run_config
from drift.errors import UserError
from drift.evaluation.stored import (
    DEFAULT,
    check_name,
    evaluation_names,
    first_difference,
    list_evaluations,
)
from drift.files.records import read_object
from drift.files.writing import told, write_texts
from drift.report.arms import Compared, group, name_runs
from drift.report.comparison import Comparison, comparison
from drift.report.page.render import render
from drift.report.results import TABLES
from drift.report.tables import WRITERS, markdown, to_markdown, write_csv
from drift.training.runs import read_training


def read_runs(folders: Sequence[Path], name: str = DEFAULT) -> list[Compared]:
    """Everything the comparison needs; refuses runs without an evaluation of this name."""
    check_name(name)
    if not folders:
        raise UserError("compare: name at least one run folder")
    seen = Counter(folder.resolve() for folder in folders)
    twice = [folder for folder in folders if seen[folder.resolve()] > 1]
    if twice:
        raise UserError(f"compare: {twice[-1]} is named twice; a run is not its own baseline")
    configs = [load_run_config(folder) for folder in folders]
    runs = []
    for label, folder, config in zip(name_runs(folders, configs), folders, configs, strict=True):
        evaluations = list_evaluations(folder, name, tqdm.write)
        if 0 not in evaluations or len(evaluations) < 2:
            raise _not_evaluated(folder, name)
        environment = read_object(folder / "environment.json", field="compare")
        runs.append(
            Compared(label, folder, config, evaluations, read_training(folder), environment, name)
        )
    return runs


def _not_evaluated(folder: Path, name: str) -> UserError:
    """What is missing, the names that are there, and what to do."""
    what = "evaluation" if name == DEFAULT else f"evaluation '{name}'"
    others = [other for other in evaluation_names(folder) if other != name]
    has = f"; it has {', '.join(others)}, for --name" if others else ""
    named = "" if name == DEFAULT else f" --name {name}"
    return UserError(
        f"compare: {folder} has no {what} of its base model and a checkpoint{has}; "
        f"do `drift evaluate {folder}{named}`"
    )


def check(runs: Sequence[Compared]) -> None:
    """Refuse evaluations of other prompts, seeds, rewards, samplers or base models; says which."""
    for run in runs:
        ours, theirs = runs[0].config.reward, run.config.reward
        if ours != theirs:
            raise UserError(
                f"compare: {runs[0].run} was trained on {ours}, and {run.run} on {theirs}: "
                "compare runs of one reward"
            )
        for step, metrics in run.evaluations.items():
            folder = run.folder(step)
            different = first_difference(runs[0].evaluations[0], metrics)
            if different:
                first = runs[0].folder(0)
                raise UserError(f"compare: {first} and {folder} differ in their {different}")
            _check_features(folder)


def _check_features(folder: Path) -> None:
    path = folder / "features.safetensors"
    for name, features in (load_file(path) if path.exists() else {}).items():
        if not features.isfinite().all():
            raise UserError(f"compare: {path} holds NaN among the features of {name}")


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


def tables(found: Comparison, summary: str, sentences: Sequence[str]) -> dict[str, str]:
    """File name -> text: every table in every format, and all of them in one page of Markdown."""
    made = [table for table in (build(found) for build in TABLES) if table.rows]
    written = {
        f"tables/{table.name}.{ending}": write(table)
        for table in made
        for ending, write in WRITERS.items()
    }
    head = "\n\n".join([f"## {markdown(summary)}", *map(markdown, sentences)])
    written["tables.md"] = "\n".join([head, "", *map(to_markdown, made)])
    return written


def compare(
    folders: Sequence[Path],
    out: Path,
    baselines: Sequence[Path] = (),
    *,
    figures: bool = False,
    page_size: float = 4.9,
    name: str = DEFAULT,
) -> Path:
    """Write page, tables and, if asked for, drawn figures to `out`; returns the page.

    Runs that differ in their training seed alone are one arm. Gains and differences are those of
    `folders` over `baselines`. `page_size`: in MB, of which pictures get what the rest leaves.
    `name`: of the evaluations that are compared.
    """
    if figures:
        import drift.report.plots as plots  # which needs matplotlib
    runs = read_runs([*folders, *baselines], name)
    check(runs)
    ours, theirs, arms = group(runs[: len(folders)]), group(runs[len(folders) :]), group(runs)
    if len(arms) < len(ours) + len(theirs):
        raise UserError("compare: a method is named as a baseline of itself, with another seed")
    found = comparison(arms[: len(ours)], arms[len(ours) :])
    command = ["drift", "compare", *map(str, folders)]
    command += ["--baseline", *map(str, baselines)] if baselines else []
    command += ["--name", name] if name != DEFAULT else []
    command += ["--figures"] if figures else []
    command = shlex.join([*command, "--out", str(out)])
    summary, sentences = found.verdict
    table = rows(runs)
    written = {
        "report.html": render(found, command, int(page_size * 1e6)),
        "comparison.csv": write_csv([list(table[0]), *(list(row.values()) for row in table)]),
        "comparison.json": _json(found, command, [summary, *sentences], table),
        **tables(found, summary, sentences),
    }
    write_texts(out, written, field="out")
    if figures:
        with told(out, field="out"):
            plots.draw(found, out)
    return out / "report.html"


def _json(found: Comparison, command: str, sentences: list[str], table: list[dict]) -> str:
    whole = {
        "verdict": sentences,
        "command": command,
        "evaluation": found.base.name,
        "arms": {arm.label: [str(run.run) for run in arm.runs] for arm in found.arms},
        "scale": asdict(found.scale),
        "settings": found.arms[0].settings,
        "gains": [asdict(gain) for gain in found.gains],
        "differences": [asdict(difference) for difference in found.differences],
        "rows": table,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)

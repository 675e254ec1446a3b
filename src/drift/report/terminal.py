"""The closing table of `drift evaluate`: a column for each model, in blocks as wide as asked for.

Runs that differ in nothing but their seed also get a column of their mean over seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from drift.config import TrainConfig, load_run_config
from drift.evaluation import stored
from drift.functional.intervals import crossed_interval
from drift.report.arms import first_unique, identity
from drift.report.verdict import number
from drift.report.wording import in_words, wording

# Figures by the first part of their names, in the order shown.
OF_MODELS = ("reward", "gold", "right_animal", "coverage")
OF_ENCODERS = ("diversity", "vendi", "vendi_all", "recall", "precision")
WIDEST, GAP = 34, 2  # characters: of a name, between columns
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A checkpoint, the mean of several, or a base model, which has no `config`."""

    name: str
    when: str
    figures: Figures
    config: TrainConfig | None = None


def closing_table(folders: Sequence[Path], width: int) -> list[str]:
    """The table of these evaluations, which have equal settings, and what is to be known of it."""
    found = {folder: metrics for folder in folders if (metrics := stored.read_evaluation(folder))}
    settings = next(iter(found.values()))["settings"]
    columns = _columns(found)
    bases = sum(column.config is None for column in columns)
    rewarded: dict[str, list[str]] = {}
    for column in columns:
        if column.config and column.config.method.shaping.weight > 0:
            rewarded.setdefault(column.config.encoder, []).append(column.name)
    encoders = sorted(settings["encoders"], key=rewarded.__contains__)  # what judges best, first
    shown = [*columns[:bases], *_seed_means(columns), *columns[bases:]]
    asked = f"{len(settings['prompts'])} prompts, {settings['images_per_prompt']} images each"
    lines = [
        *_layout(shown, _rows(shown, encoders), width),
        "",
        f"{asked} from seed {settings['seed']} on; in brackets: 95 % intervals over prompts",
    ]
    if len(shown) > len(columns):
        lines.append("of means: over seeds and prompts, too narrow with 2 or 3 seeds")
    for encoder in encoders:
        if encoder in rewarded:
            names = ", ".join(dict.fromkeys(rewarded[encoder]))
            lines.append(f"{encoder} was rewarded in {names}: judge diversity by the others")
    return lines


def measured_table(measured: Sequence[tuple[str, Figures, list[str]]]) -> list[str]:
    """For each encoder a row a folder, of (folder, figures, notes); then the notes."""
    names = list(dict.fromkeys(name for _, figures, _ in measured for name in figures))
    told = ["in brackets: 95 % intervals over prompts; Vendi and recall rise with the pictures"]
    lines: list[str] = []
    for encoder in dict.fromkeys(name.partition("/")[2] for name in names):
        shown = [name for k in OF_ENCODERS if (name := f"{k}/{encoder}") in names]
        rows = [[encoder, *(wording(name).text for name in shown)]]
        for folder, figures, _ in measured:
            cells = [cell(figures.get(name), wording(name).share) for name in shown]
            rows.append([_cut(folder), *cells])
        widths = [max(map(len, column)) + GAP for column in zip(*rows, strict=True)]
        for row in rows:
            texts = (text.ljust(w) for text, w in zip(row, widths, strict=True))
            lines.append("".join(texts).rstrip())
        lines.append("")
        if encoder.endswith("-tiny"):
            told.append(f"{encoder} knows the Menagerie's drawings: judge others by dreamsim, clip")
    told += [f"{folder}: {note}" for folder, _, notes in measured for note in notes]
    return lines + told


def _columns(found: dict[Path, dict[str, Any]]) -> list[Column]:
    """Each base model once, then the checkpoints."""
    bases = {m["model"]["sha256"]: m for m in found.values() if not m["adapter"]}
    columns = []
    for metrics in bases.values():
        name = "base model" if len(bases) == 1 else metrics["model"]["name"]
        columns.append(Column(name, "", metrics["figures"]))
    trained = {folder: metrics for folder, metrics in found.items() if metrics["adapter"]}
    paths = [stored.run_of(folder) for folder in trained]
    each = list(dict.fromkeys(paths))
    kinds = [path.resolve().name for path in each], list(map(str, each))
    names = dict(zip(each, first_unique(kinds), strict=True))
    for path, metrics in zip(paths, trained.values(), strict=True):
        when, config = f"epoch {metrics['step']}", load_run_config(path)
        columns.append(Column(names[path], when, metrics["figures"], config))
    return columns


def _seed_means(columns: Sequence[Column]) -> list[Column]:
    """A column for each epoch of the runs that differ in nothing but their seed."""
    trained = [(column.config, column) for column in columns if column.config]
    keys = [(identity(config), column.when) for config, column in trained]
    means: list[Column] = []
    for k, key in enumerate(keys):
        members = [pair for pair, other in zip(trained, keys, strict=True) if other == key]
        seeds = len({config.seed for config, _ in members})
        if keys.index(key) < k or not seeds == len(members) > 1:
            continue
        name, when = f"{members[0][0].method_name or 'mean'}, {seeds} seeds", key[1]
        if (name, when) in [(other.name, other.when) for other in means]:
            name = "mean of " + ", ".join(column.name for _, column in members)
        means.append(Column(name, when, mean_figures([c.figures for _, c in members])))
    return means


def mean_figures(each: Sequence[Figures]) -> Figures:
    """Means over seeds, with intervals over seeds and prompts; a figure that some lack is left out.

    So is a prompt that has no value with some seed.
    """
    means = {}
    for name in each[0]:
        figures = [figures[name] for figures in each if name in figures]
        if len(figures) < len(each) or any(figure["mean"] is None for figure in figures):
            continue
        values = _by_prompt(figures)
        if not values.numel():
            continue
        low, high = crossed_interval(values, torch.Generator().manual_seed(0))
        means[name] = {"mean": values.mean().item(), "low": low, "high": high}
    return means


def _by_prompt(figures: Sequence[dict[str, Any]]) -> Float[Tensor, "S P"]:
    """The values of all prompts; a figure of the whole set is one value for each seed."""
    rows = [figure["per_prompt"] or [figure["mean"]] for figure in figures]
    whole = [values for values in zip(*rows, strict=True) if None not in values]
    return torch.tensor(whole, dtype=torch.float64).reshape(-1, len(figures)).T


def _rows(columns: Sequence[Column], encoders: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(what it is, a cell for each column) of every figure that is shown."""
    names = list(dict.fromkeys(name for column in columns for name in column.figures))
    listed = [n for kind in OF_MODELS for n in names if n.partition("/")[0] == kind]
    listed += [f"{kind}/{e}" for e in encoders for kind in OF_ENCODERS if f"{kind}/{e}" in names]
    return [
        (in_words(n), [cell(column.figures.get(n), wording(n).share) for column in columns])
        for n in listed
    ]


def cell(figure: dict[str, Any] | None, share: bool) -> str:
    """Mean and interval, to two digits of what is uncertain; a share in percent.

    The mean has four digits at most.
    """
    if figure is None or figure["mean"] is None:
        return "–"
    mean, low, high = figure["mean"], figure["low"], figure["high"]
    if share:
        return f"{100 * mean:.0f} %" + (
            "" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]"
        )
    if low is None or not high > low:
        return number(mean)
    uncertain = int(f"{(high - low) / 2:.0e}".partition("e")[2])  # its power of ten
    most = 3 - int(math.log10(max(1, abs(mean))))
    digits = max(0, min(most, 1 - uncertain))
    return f"{mean:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]".replace("-", "−")


def _layout(
    columns: Sequence[Column], rows: Sequence[tuple[str, list[str]]], width: int
) -> list[str]:
    """Titles and cells under one another, as many columns beside one another as fit."""
    first = max(len(_cut(title)) for title, _ in rows)
    heads = [(_cut(column.name), column.when) for column in columns]
    texts = [text for head in heads for text in head] + [c for _, cells in rows for c in cells]
    each = GAP + max(map(len, texts))
    beside, lines = max(1, (width - first) // each), []
    for k in range(0, len(columns), beside):
        part = slice(k, k + beside)
        shown = [("", [head[line] for head in heads[part]]) for line in (0, 1)]
        shown += [(_cut(title), cells[part]) for title, cells in rows]
        lines += [""] if lines else []
        for title, cells in shown:
            line = title.ljust(first) + "".join(" " * GAP + c.ljust(each - GAP) for c in cells)
            lines.append(line.rstrip())
    return lines


def _cut(text: str) -> str:
    """The end tells more than the beginning, of paths and names alike."""
    return text if len(text) <= WIDEST else "…" + text[1 - WIDEST :]

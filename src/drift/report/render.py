"""The page: one self-contained HTML file, no scripts, under a strict Content-Security-Policy."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import TypeAdapter

from drift.config import TrainConfig
from drift.report.arms import Compared, group
from drift.report.charts import Line, line_chart, rolling_mean
from drift.report.sheets import block, data_uri, webp
from drift.report.table import table
from drift.report.verdict import judging_reward, rewarded_encoders, verdict

COLUMNS, PICTURES = 4, 8  # of one model under one prompt
MOST_PROMPTS = (24, 12, 6)  # shown, as the budget allows
OPEN_PROMPTS = 5  # shown without a click
IMAGE_BUDGET = 1_250_000  # bytes; base64 makes it a third more, and the page stays below 2 MB
SIZES = (
    (128, 82),
    (96, 80),
    (80, 75),
    (64, 70),
    (48, 60),
)  # tile in pixels, WebP quality: try in order
SMOOTH = 12  # parts of a training curve that its rolling mean averages over


@dataclass(frozen=True)
class Sheet:
    """The pictures of one prompt, one data URI for each model."""

    prompt: str
    images: list[str]


def spread_out(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, evenly apart: not chosen by how they look."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def sheets(prompts: list[str], models: Sequence[UInt8[np.ndarray, "P N H W 3"]]) -> list[Sheet]:
    """Sheets of as many prompts, and as fine, as the page has room for."""
    rows: dict[int, list[bytes]] = {}
    for most, (tile, quality) in product(MOST_PROMPTS, SIZES):
        rows = {
            p: [webp(block(m[p, :PICTURES], COLUMNS, tile), quality) for m in models]
            for p in spread_out(len(prompts), most)
        }
        if sum(len(image) for row in rows.values() for image in row) <= IMAGE_BUDGET:
            break
    return [Sheet(prompts[p], [data_uri(image) for image in row]) for p, row in rows.items()]


def training_chart(runs: Sequence[Compared], key: str, name: str) -> Markup:
    """A quantity of metrics.jsonl against images sampled, its rolling mean over the pale points."""
    lines = []
    for k, run in enumerate(runs, 1):
        raw = [(point["images"], point[key]) for point in run.training]
        smooth = rolling_mean(raw, max(1, len(raw) // SMOOTH))
        lines.append(Line(run.label, k, smooth, faint=raw))
    return line_chart(lines, "images sampled", name, f"{name} against images sampled")


def frontier_chart(runs: Sequence[Compared], reward: str, measure: str, name: str) -> Markup:
    """A measure of diversity against reward: a dot for every judged checkpoint, base first."""
    lines = []
    for k, run in enumerate(runs, 1):
        steps = [
            (run.figure(f"reward/{reward}", s), run.figure(measure, s)) for s in run.evaluations
        ]
        points = [(x["mean"], y["mean"]) for x, y in steps if x and y]
        lines.append(Line(run.label, k, points, dots=True))
    title = f"{name} against reward ({reward}) of every judged checkpoint"
    return line_chart(lines, f"reward, {reward}", name, title)


def frontiers(runs: Sequence[Compared], arms, reward: str) -> list[Markup]:
    """Frontier charts by ground truth, where there is one, and by every encoder."""
    measures = {"coverage": "ground-truth coverage"} if runs[0].figure("coverage") else {}
    for encoder in runs[0].evaluations[0]["settings"]["encoders"]:
        rewarded = " (rewarded)" if encoder in rewarded_encoders(arms) else ""
        measures[f"diversity/{encoder}"] = f"diversity, {encoder}{rewarded}"
    return [frontier_chart(runs, reward, measure, name) for measure, name in measures.items()]


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Nested settings as "a.b.c" -> text."""
    if isinstance(value, dict):
        pairs = [flatten(inner, f"{path}.{key}" if path else key) for key, inner in value.items()]
        return {key: text for pair in pairs for key, text in pair.items()}
    if isinstance(value, list | tuple):
        return {path: ", ".join(map(str, value))}
    return {path: "" if value is None else str(value)}


def describe_environment(environment: dict[str, Any]) -> dict[str, str]:
    """Flat, as text; of the weights only their names and one checksum over each part's files."""
    plain = flatten({key: value for key, value in environment.items() if key != "weights"})
    for role, entries in environment.get("weights", {}).items():
        names = ", ".join(entry["name"] for entry in entries)
        sums = [
            f"{file} {sha}" for entry in entries for file, sha in entry.get("sha256", {}).items()
        ]
        joint = hashlib.sha256("\n".join(sorted(sums)).encode()).hexdigest()[:12]
        plain[f"weights: {role}"] = (
            f"{names}, {len(sums)} files, SHA-256 {joint}" if sums else names
        )
    return plain


def settings(runs: Sequence[Compared]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """(settings that differ, with each run's), (settings in common)."""
    adapter = TypeAdapter(TrainConfig)
    flat = [flatten(adapter.dump_python(run.config, mode="json")) for run in runs]
    keys = sorted({key for f in flat for key in f} - {"output"})
    differing = [(key, [f.get(key, "–") for f in flat]) for key in keys]
    common = [(key, values[0]) for key, values in differing if len(set(values)) == 1]
    return [pair for pair in differing if len(set(pair[1])) > 1], common


def style_hash(css: str) -> str:
    digest = hashlib.sha256(css.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def render(
    runs: Sequence[Compared], pictures: Sequence[UInt8[np.ndarray, "P N H W 3"]], command: str
) -> str:
    """The page as text; `pictures` of the base model first, then of each run."""
    folder = files("drift.report")
    css = (folder / "page.css").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (folder / "page.html").read_text(encoding="utf-8")
    )
    arms = group(runs)
    judged, reward = runs[0].evaluations[0], judging_reward(arms)
    summary, sentences = verdict(arms)
    differing, common = settings(runs)
    measured = dict.fromkeys(run.config.encoder for run in runs if run.config.encoder)
    return template.render(
        css=Markup(css),
        policy=f"default-src 'none'; style-src '{style_hash(css)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        runs=runs,
        labels=["Base model", *(run.label for run in runs)],
        judged=judged,
        reward=reward,
        summary=summary,
        sentences=sentences,
        sheets=sheets(judged["settings"]["prompts"], pictures),
        open_prompts=OPEN_PROMPTS,
        shown=min(PICTURES, judged["settings"]["images_per_prompt"]),
        sections=table(arms),
        frontiers=frontiers(runs, arms, reward),
        curves=[
            training_chart(runs, "reward", f"reward, {runs[0].config.reward}"),
            training_chart(runs, "diversity", f"diversity, {' and '.join(measured)}"),
        ],
        differing=differing,
        common=common,
        command=command,
        environments=[describe_environment(run.environment) for run in runs],
    )

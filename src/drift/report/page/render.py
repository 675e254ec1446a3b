"""The page: one self-contained HTML file under a strict Content-Security-Policy.

Words, tables and settings are written here and need no script; the pictures and charts are drawn by
`page.js`, `plots.js` and `charts.js` from two blocks of JSON. The policy names the script and the
style by their hashes, so nothing else in the page can run, whatever a prompt says.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import TypeAdapter

from drift.config import TrainConfig
from drift.report.arms import Arm, Compared
from drift.report.comparison import Comparison
from drift.report.page.payload import as_json, payload
from drift.report.page.pictures import PICTURES, film_strips
from drift.report.page.table import table
from drift.report.results import TABLES, intervals_over

LARGEST_PAGE = 4_900_000  # bytes; the pictures get what the rest leaves of it


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


def settings(arms: Sequence[Arm]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """(settings that differ, with each arm's), (settings in common); of several runs all values."""
    adapter = TypeAdapter(TrainConfig)
    flat = [
        [flatten(adapter.dump_python(run.config, mode="json")) for run in arm.runs] for arm in arms
    ]
    keys = sorted({key for runs in flat for f in runs for key in f} - {"output"})
    listed = [
        (key, [", ".join(dict.fromkeys(f.get(key, "–") for f in runs)) for runs in flat])
        for key in keys
    ]
    common = [(key, values[0]) for key, values in listed if len(set(values)) == 1]
    return [pair for pair in listed if len(set(pair[1])) > 1], common


def allow(text: str) -> str:
    """The source expression that lets exactly this inline script or style through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(found: Comparison, command: str, largest: int = LARGEST_PAGE) -> str:
    """The page as text of at most `largest` bytes."""
    names = ("page.css", "page.html", "charts.js", "plots.js", "page.js")
    css, html, *scripts = [
        (files("drift.report.page") / name).read_text(encoding="utf-8") for name in names
    ]
    script = "\n".join(scripts)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(html)
    arms, judged = found.arms, found.base.evaluations[0]
    runs = [run for arm in arms for run in arm.runs]
    summary, sentences = found.verdict
    differing, common = settings(arms)
    fill = partial(
        template.render,
        css=Markup(css),
        script=Markup(script),
        policy=f"default-src 'none'; script-src {allow(script)}; style-src {allow(css)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        runs=runs,
        arms=arms,
        labels=["Base model", *(arm.label for arm in arms)],
        judged=judged,
        reward=found.scale.reward,
        summary=summary,
        sentences=sentences,
        shown=min(PICTURES, judged["settings"]["images_per_prompt"]),
        data=as_json(payload(arms)),
        sections=table(arms),
        over=intervals_over(found),
        results=[made for made in (build(found) for build in TABLES[1:]) if made.rows],
        differing=differing,
        common=common,
        command=command,
        environments=[describe_environment(run.environment) for run in runs],
    )
    room = largest - len(fill(pictures="").encode())
    return fill(pictures=as_json(film_strips(runs, Compared.pictures, room)))

"""The table of the page: what was measured, in words, one column for each model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.menagerie.judge import taste_name
from drift.report.arms import Arm
from drift.report.verdict import judging_reward, number, rewarded_encoders
from drift.report.wording import GAINED, title_of, wording
from drift.reward_names import parse


@dataclass(frozen=True)
class Cell:
    """One model's figure, as text."""

    value: str
    interval: str = ""
    aside: str = ""  # in how far it is the base model's value


@dataclass(frozen=True)
class Row:
    """One figure of every model."""

    title: str
    note: str
    cells: list[Cell]  # base model first


def percent(value: int | float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _cell(figure: dict[str, Any] | None, share: bool, base: float | None) -> Cell:
    """Value and interval, and how much of `base` the value is, if that is given."""
    if figure is None:
        return Cell("–")
    show, interval, aside = percent if share else number, "", ""
    if figure["low"] is not None:
        interval = f"{show(figure['low'])} to {show(figure['high'])}".replace(" % to", " to")
    if base and figure["mean"] is not None:
        aside = f"{percent(figure['mean'] / base)} of base"
    return Cell(show(figure["mean"]), interval, aside)


def _row(arms: Sequence[Arm], name: str, note: str, title: str = "") -> list[Row]:
    """The row of one figure; no row if no model has it."""
    base, *others = [arms[0].figure(name, 0), *(arm.figure(name) for arm in arms)]
    if not base and not any(others):
        return []
    share = wording(name).share
    whole = None if share or not base or name.partition("/")[0] in GAINED else base["mean"]
    cells = [_cell(base, share, None), *(_cell(other, share, whole) for other in others)]
    return [Row(title or title_of(name), note, cells)]


def reward_rows(arms: Sequence[Arm]) -> list[Row]:
    rows = []
    for name in arms[0].settings["rewards"]:
        trained = [arm.label for arm in arms if arm.config.reward == name]
        note = f"trained for by {', '.join(trained)}" if trained else "no run was trained for it"
        rows += _row(arms, f"reward/{name}", note)
    return rows


def encoder_rows(arms: Sequence[Arm], name: str) -> list[Row]:
    """Diversity and coverage as one encoder sees them."""
    settings = arms[0].settings
    N, P = settings["images_per_prompt"], len(settings["prompts"])
    listed = {
        "diversity": "mean squared distance of two pictures of a prompt",
        "vendi": f"how many really different pictures, of {N}",
        "vendi_all": f"the same over all {N * P} pictures",
        "recall": "share of the base model's pictures still within reach",
        "precision": "share of pictures that lie where the base model draws",
    }
    return [
        row
        for kind, note in listed.items()
        for row in _row(arms, f"{kind}/{name}", note, title_of(kind))
    ]


def encoder_sections(arms: Sequence[Arm]) -> list[tuple[str, list[Row]]]:
    """One for each encoder, those first that no run was rewarded by."""
    names, rewarded = arms[0].settings["encoders"], rewarded_encoders(arms)
    sections = []
    for name in sorted(names, key=rewarded.__contains__):
        shaped = [arm for arm in arms if arm.config.method.shaping.weight > 0]
        who = ", ".join(arm.label for arm in shaped if arm.config.encoder == name)
        title = f"Diversity as {name} sees it, rewarded in {who or 'no run'}"
        sections.append((title, encoder_rows(arms, name)))
    return sections


def truth_rows(arms: Sequence[Arm]) -> list[Row]:
    """What the embedded world knows for certain; nothing for other models."""
    base = arms[0].runs[0].evaluations[0]["figures"]
    taste = taste_name(judging_reward(arms)) or ""
    N = arms[0].settings["images_per_prompt"]
    most = ""
    if f"possible/{taste}" in base:
        possible, seen = (base[f"{k}/{taste}"]["mean"] for k in ("possible", "measurable"))
        most = f"; at full reward {number(possible)} are possible, of which {N} pictures show "
        most += f"{number(seen)} on average"
    note = "share of pictures that clearly show the animal asked for"
    rows = _row(arms, "right_animal", note)
    note = f"effective number of (style, scene, facing) among right animals{most}"
    rows += _row(arms, "coverage", note)
    rows += _row(arms, "scenes", "among right animals, of 8")
    rows += _row(arms, "styles", "among right animals, of 3")
    note = "what the judges behind the reward truly like; never seen in training"
    for name in filter(None, map(taste_name, parse(judging_reward(arms)))):
        rows += _row(arms, f"gold/{name}", note)
    return rows


def compute_rows(arms: Sequence[Arm]) -> list[Row]:
    spent = [arm.spent for arm in arms]
    listed = [
        (
            "Epochs",
            "of training, up to the checkpoint judged here",
            [f"{arm.last}" for arm in arms],
        ),
        ("Images sampled", "until then", [f"{p['images']:,.0f}" if p else "–" for p in spent]),
        (
            "Training time",
            "until then, on the run's own machine",
            [f"{p['seconds']:,.0f} s" if p else "–" for p in spent],
        ),
    ]
    return [Row(title, note, [Cell("–"), *map(Cell, cells)]) for title, note, cells in listed]


def table(arms: Sequence[Arm]) -> list[tuple[str, list[Row]]]:
    """(section, rows) from top to bottom."""
    sections = [
        ("Reward", reward_rows(arms)),
        ("Ground truth of the embedded world", truth_rows(arms)),
        *encoder_sections(arms),
        ("What it cost", compute_rows(arms)),
    ]
    return [(title, rows) for title, rows in sections if rows]

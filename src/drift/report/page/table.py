"""The table of the page: what was measured, in words, one column for each model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drift.menagerie.judge import taste_name
from drift.report.arms import Arm
from drift.report.verdict import judging_reward, number, rewarded_encoders
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


def _cell(figure: dict[str, Any] | None, base: dict[str, Any] | None, show, share: bool) -> Cell:
    """Value and interval, and with `share` how much of the base model's value this is."""
    if figure is None:
        return Cell("–")
    interval = ""
    if figure["low"] is not None:
        interval = f"{show(figure['low'])} to {show(figure['high'])}".replace(" % to", " to")
    aside = ""
    if share and base and base is not figure and base["mean"] and figure["mean"] is not None:
        aside = f"{percent(figure['mean'] / base['mean'])} of base"
    return Cell(show(figure["mean"]), interval, aside)


def _row(
    arms: Sequence[Arm],
    name: str,
    title: str,
    note: str,
    show: Callable[[int | float | None], str] = number,
    share: bool = False,
) -> list[Row]:
    """The row of one figure; no row if no model has it."""
    figures = [arms[0].figure(name, 0), *(arm.figure(name) for arm in arms)]
    if not any(figures):
        return []
    return [Row(title, note, [_cell(figure, figures[0], show, share) for figure in figures])]


def reward_rows(arms: Sequence[Arm]) -> list[Row]:
    rows = []
    for name in arms[0].settings["rewards"]:
        trained = [arm.label for arm in arms if arm.config.reward == name]
        note = f"trained for by {', '.join(trained)}" if trained else "no run was trained for it"
        rows += _row(arms, f"reward/{name}", f"Reward, {name}", note)
    return rows


def encoder_rows(arms: Sequence[Arm], name: str) -> list[Row]:
    """Diversity and coverage as one encoder sees them."""
    settings = arms[0].settings
    N, P = settings["images_per_prompt"], len(settings["prompts"])
    listed = [
        ("diversity", "Diversity", "mean squared distance of two pictures of a prompt", number),
        ("vendi", "Vendi score of a prompt", f"how many really different pictures, of {N}", number),
        ("vendi_all", "Vendi score of the set", f"the same over all {N * P} pictures", number),
        ("recall", "Recall", "share of the base model's pictures still within reach", percent),
        (
            "precision",
            "Precision",
            "share of pictures that lie where the base model draws",
            percent,
        ),
    ]
    rows = []
    for key, title, note, show in listed:
        rows += _row(arms, f"{key}/{name}", title, note, show, share=show is number)
    return rows


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
    rows = _row(arms, "right_animal", "Right animal", note, percent)
    note = f"effective number of (style, scene, facing) among right animals{most}"
    rows += _row(arms, "coverage", "Ground-truth coverage", note, share=True)
    rows += _row(arms, "scenes", "Scenes", "effective number among right animals, of 8", share=True)
    rows += _row(arms, "styles", "Styles", "effective number among right animals, of 3", share=True)
    note = "what the judges behind the reward truly like; never seen in training"
    for name in filter(None, map(taste_name, parse(judging_reward(arms)))):
        rows += _row(arms, f"gold/{name}", f"Gold utility, {name}", note)
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

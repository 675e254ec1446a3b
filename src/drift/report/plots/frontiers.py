"""Reward against diversity over training (DRIFT, Figures 4, 9 and 10)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from drift.functional.intervals import crossed_interval
from drift.functional.pareto import frontier
from drift.report.arms import Arm
from drift.report.comparison import Comparison
from drift.report.plots.style import BASE, INK, WIDTH, Look, caption, look, measure_name, plain
from drift.report.verdict import FEWEST_PROMPTS, gaps

PANELS = ("diversity", "recall", "vendi", "coverage")


def measures(compared: Comparison) -> list[str]:
    """The panels: two encoders' diversity, recall and Vendi by the deciding one, ground truth."""
    listed = [m for m in (*compared.measures, *compared.truths) if m.split("/")[0] in PANELS]
    many = [m for m in listed if m.startswith("diversity/")][2:]
    return [m for m in listed if m not in many]


def course(compared: Comparison, arm: Arm, measure: str) -> Float[Tensor, "K S 2"]:
    """(normalised reward, measure) at every evaluated step that has both, for every seed."""
    points = []
    for step in arm.steps:
        x, y = arm.values(f"reward/{compared.scale.reward}", step), arm.values(measure, step)
        if x is not None and y is not None:
            points.append(torch.stack([compared.scale(x), y], 1))
    return torch.stack(points) if points else torch.empty(0, len(arm.runs), 2).double()


def change_interval(arm: Arm, name: str) -> Float[Tensor, "2"]:
    """95 % interval of the change since the base model, around its mean; NaN with few prompts.

    Prompt by prompt, as the base model drew the same prompts from the same seeds: prompts differ
    among themselves by far more than training moves them.
    """
    change = gaps(arm, arm, name, step=0)
    if change is None or change.isfinite().any(0).sum() < FEWEST_PROMPTS:
        return torch.full((2,), torch.nan).double()
    ends = crossed_interval(change, torch.Generator().manual_seed(0))
    return torch.tensor(ends).double() - change.nanmean()


def _draw_arm(ax: Axes, compared: Comparison, arm: Arm, measure: str, look: Look) -> None:
    """The mean over seeds; pale, each seed; bars, how sure the last step's change is."""
    points = course(compared, arm, measure)
    if not len(points):
        return
    colour, mean = look.colour, points.mean(1)
    if len(arm.runs) > 1:
        for seed in points.unbind(1):
            ax.plot(*seed.T, color=colour, lw=0.8, alpha=0.35, zorder=2)
    x, y = mean[-1]
    low, high = compared.scale.low, compared.scale.high
    across = x + change_interval(arm, f"reward/{compared.scale.reward}") / (high - low)
    up = y + change_interval(arm, measure)
    for ends in ((across, y.expand(2)), (x.expand(2), up)):
        ax.plot(*ends, color=colour, lw=1, alpha=0.6, zorder=2.5)
    kind = {"color": colour, "marker": look.marker, "ms": 5, "mec": "white", "mew": 0.6}
    shown = list(range(1, len(mean)))  # the base model has a star of its own
    ax.plot(*mean.T, **kind, markevery=shown, lw=1.6, zorder=3)


def _mark_frontier(ax: Axes, compared: Comparison, measure: str) -> None:
    """Rings around what no other arm and step is better than in both; the base model's star."""
    courses = [course(compared, arm, measure).mean(1) for arm in compared.arms]
    base = next(c for c in courses if len(c))[:1]
    points = torch.cat([base, *(c[1:] for c in courses)])
    best = points[frontier(*points.T)]
    ax.plot(*best.T, "o", ms=9.5, mfc="none", mec=INK, mew=0.7, zorder=4)
    ax.plot(*base.T, "*", color=BASE, ms=12, mec="white", mew=0.6, zorder=5)


def _legend(arms: Sequence[Arm]) -> list[Line2D]:
    handles = [Line2D([], [], color=BASE, marker="*", ms=11, ls="", label="Base model")]
    for k, arm in enumerate(arms):
        own, label = look(k), plain(arm.label, 30)
        handles.append(Line2D([], [], color=own.colour, marker=own.marker, ms=5, label=label))
    ring = Line2D([], [], ls="", marker="o", ms=9, mfc="none", mec=INK, mew=0.7)
    ring.set_label("Pareto frontier")
    return [*handles, ring]


def frontiers(compared: Comparison) -> Figure | None:
    """A panel for each measure; every arm's way from the base model, step by step."""
    panels = measures(compared)
    if not panels:
        return None
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, measure in zip(axes, panels, strict=False):
        for k, arm in enumerate(compared.arms):
            _draw_arm(ax, compared, arm, measure, look(k))
        _mark_frontier(ax, compared, measure)
        paid = " (rewarded)" if measure.partition("/")[2] in compared.rewarded else ""
        ax.set_ylabel(f"{measure_name(measure)}{paid}")
    low, high = compared.scale.low, compared.scale.high
    handles = _legend(compared.arms)
    if len(axes) > len(panels):
        spare = axes[-1]
        spare.set_axis_off()
        spare.legend(handles=handles, loc="center left", labelspacing=0.9)
    else:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    for ax in axes[len(panels) - columns : len(panels)]:
        ax.set_xlabel("normalised reward")
    seeds = max(len(arm.runs) for arm in compared.arms)
    over = "over seeds and prompts" if seeds > 1 else "over prompts"
    lines = f"mean over up to {seeds} training seeds; pale: each" if seeds > 1 else "one seed"
    caption(
        figure,
        f"Reward: {plain(compared.scale.reward, 40)}, 0 = {low:.4g} and 1 = {high:.4g} raw. "
        f"Lines, from the base model on: {lines}. Bars, at the last checkpoint: 95 % interval "
        f"{over} of the change since the base model.",
    )
    return figure

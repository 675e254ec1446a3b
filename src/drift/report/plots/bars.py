"""Diversity and reward gains over the baselines as bars (DRIFT, Figures 6 and 8)."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from drift.functional.gains import By
from drift.report.comparison import Comparison
from drift.report.gains import AVERAGE, WAYS, At, Gain
from drift.report.plots.style import INK, SOFT, WIDTH, Look, caption, look, measure_name, plain

SHOWN = ("diversity", "recall", "vendi", "coverage")
REACH = 2  # an interval is drawn as far as so many times the panel's longest bar


def _gained(gain: Gain) -> str:
    return gain.measure if gain.kind == "DG" else "reward"


def _signed(percent: float) -> str:
    return "0" if abs(percent) < 0.5 else f"{percent:+.0f}".replace("-", "−")


def _interval(ax: Axes, x: float, low: float, high: float, most: float) -> tuple[float, float]:
    """A line, with an arrow where it goes on beyond ±`most`; its ends as drawn."""
    ends = max(low, -most), min(high, most)
    ax.plot([x, x], ends, color=INK, lw=1, zorder=3)
    for end, whole, marker in zip(ends, (low, high), "v^", strict=True):
        if end != whole:
            ax.plot(x, end, marker, color=INK, ms=3.5, mew=0, zorder=3)
    return ends


def _bar(ax: Axes, x: float, width: float, gain: Gain, look: Look, most: float) -> None:
    """A bar with its number and interval; where nothing was reached, these words instead."""
    if gain.mean is None:
        words = "not reached"
        kind = {"rotation": 90, "fontsize": 6.5, "style": "italic", "color": look.colour}
        ax.annotate(words, (x, 0), (0, 3), textcoords="offset points", ha="center", **kind)
        return
    kind = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "lw": 0}
    ax.bar(x, 100 * gain.mean, 0.92 * width, **kind, zorder=2)
    top = bottom = 100 * gain.mean
    if gain.low is not None and gain.high is not None:
        low, high = _interval(ax, x, 100 * gain.low, 100 * gain.high, most)
        top, bottom = max(top, high), min(bottom, low)
    rising = gain.mean >= 0
    text = _signed(100 * gain.mean)
    if gain.reached < gain.seeds:
        text = f"{text}\n({gain.reached}/{gain.seeds})"
    place = max(top, 0.0) if rising else min(bottom, 0.0)
    kind = {"ha": "center", "va": "bottom" if rising else "top", "fontsize": 6.5}
    ax.annotate(text, (x, place), (0, 2 if rising else -2), textcoords="offset points", **kind)


def _panel(ax: Axes, gains: Sequence[Gain], looks: dict[str, Look]) -> None:
    """One group of bars for each measure, the reward's last; one bar for each baseline."""
    listed = dict.fromkeys(map(_gained, gains))
    measures = sorted(listed, key="reward".__eq__)
    baselines = list(dict.fromkeys(gain.baseline for gain in gains))
    width = 0.8 / len(baselines)
    most = REACH * max(10.0, *(100 * abs(gain.mean or 0.0) for gain in gains))
    for gain in gains:
        shift = (baselines.index(gain.baseline) - (len(baselines) - 1) / 2) * width
        _bar(ax, measures.index(_gained(gain)) + shift, width, gain, looks[gain.baseline], most)
    ax.axhline(0, color=SOFT, lw=0.8, zorder=3)
    ax.set_xticks(range(len(measures)), [measure_name(m) for m in measures])
    ax.tick_params(axis="x", length=0, labelcolor=INK)
    ax.set_xlim(-0.55, len(measures) - 0.45)
    ax.grid(visible=False, axis="x")
    ax.margins(y=0.16)  # room for the numbers
    low, high = ax.get_ylim()
    high = max(high, 0.6 * max(-low, 10.0))  # and above 0 for words
    ax.set_ylim(min(low, -0.1 * high), high)
    ax.yaxis.set_major_formatter(lambda value, _: f"{_signed(value)} %")


def gain_bars(compared: Comparison) -> Figure | None:
    """A panel for each method that has baselines, and for each protocol."""
    shown = [
        g for g in compared.gains if g.baseline != AVERAGE and g.measure.split("/")[0] in SHOWN
    ]
    if not shown:
        return None
    looks = {arm.label: look(k) for k, arm in enumerate(compared.arms)}
    panels: dict[tuple[str, By, At], list[Gain]] = {}
    for gain in shown:
        panels.setdefault((gain.ours, gain.by, gain.at), []).append(gain)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False).flat
    for ax, ((ours, by, at), own) in zip(axes, panels.items(), strict=True):
        _panel(ax, own, looks)
        ax.set_title(f"{plain(ours, 30)}'s gain, {WAYS[by, at]}")
        ax.set_ylabel("over the baseline")
    handles = []
    for name in dict.fromkeys(gain.baseline for gain in shown):
        patch = Patch(facecolor=looks[name].colour, edgecolor="white", label=plain(name, 30))
        patch.set_hatch(looks[name].hatch)
        handles.append(patch)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    caption(
        figure,
        "Paper's protocol: our checkpoint that exceeds the baseline's last one least, a lower "
        "bound. Diversity measures: relative gain at equal reward. Reward: relative gain of the "
        f"normalised reward ({plain(compared.scale.reward, 40)}) at equal diversity. Mean over "
        "training seeds, with its interval (an arrow: it goes on, see the table); (k/n): only k of "
        "n seeds reached the baseline.",
    )
    return figure

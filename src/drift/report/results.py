"""The tables of a comparison."""

from drift.report.arms import Arm
from drift.report.comparison import Comparison
from drift.report.gains import WAYS, Gain
from drift.report.seeds import over_seeds
from drift.report.tables import Cell, Table, signed_percent
from drift.report.verdict import FEWEST_SEEDS, number, rewarded_encoders
from drift.report.wording import capital, title_of


def intervals_over(found: Comparison) -> str:
    """What intervals are over, in words."""
    seeds = {len(arm.runs) for arm in found.arms}
    if seeds == {1}:
        return "prompts (one training seed, so they say nothing about others)"
    narrow = ": too narrow" if min(seeds) < FEWEST_SEEDS else ""
    return f"training seeds and prompts ({'-'.join(map(str, sorted(seeds)))} seeds{narrow})"


def _cells(found: Comparison, arm: Arm | None) -> list[Cell]:
    """A row of Table 1; the base model's for None."""
    figures = [
        found.base.figure(name, 0) if arm is None else arm.figure(name)
        for name in (*found.measures, *found.truths, f"reward/{found.scale.reward}")
    ]
    known = [f or {"mean": None, "low": None, "high": None} for f in figures]
    bounds = [(f["mean"], f["low"], f["high"]) for f in known]
    low, span = found.scale.low, found.scale.high - found.scale.low
    scaled = [None if value is None else (value - low) / span for value in bounds[-1]]
    return [Cell(mean, low, high) for mean, low, high in (*bounds[:-1], scaled, bounds[-1])]


def table1(found: Comparison) -> Table:
    """Table 1's shape: base model, baselines, ours, and the gains averaged over baselines."""
    header = ["", "Seeds", *map(title_of, (*found.measures, *found.truths))]
    header += ["Reward, normalised", title_of(f"reward/{found.scale.reward}")]
    rows: list[list[Cell | str]] = [["Base model", "", *_cells(found, None)]]
    for arm in (*found.baselines, *found.ours):
        rows.append([arm.label, str(len(arm.runs)), *_cells(found, arm)])
    rows += _gain_rows(found)
    low, high = number(found.scale.low), number(found.scale.high)
    notes = [
        f"Last judged checkpoint of each run; intervals (95 %) over {intervals_over(found)}.",
        f"Normalised reward: (raw - {low}) / ({high} - {low}), the least and the greatest mean "
        "of any compared checkpoint.",
    ]
    paid = ", ".join(sorted(rewarded_encoders(found.arms)))
    if paid:
        notes.append(f"Diversity by {paid} was itself rewarded in some of these runs.")
    return Table("table1", f"Diversity and reward, {found.scale.reward}", header, rows, notes)


def _gain_rows(found: Comparison) -> list[list[Cell | str]]:
    """DG under every measure and RG under the reward, averaged over the baselines."""
    rows: list[list[Cell | str]] = []
    for arm in found.ours if found.baselines else ():
        for (by, at), words in WAYS.items():
            mine = [g for g in found.gains if (g.ours, g.by, g.at) == (arm.label, by, at)]
            last = {(g.kind, g.measure): g for g in mine}  # the average stands behind its parts
            cells = [gain_cell(last.get(("DG", m))) for m in (*found.measures, *found.truths)]
            reward = gain_cell(last[("RG", f"diversity/{found.encoder}")])
            name = f"DG / RG of {arm.label}, {words}"
            rows.append([name, "", *cells, reward, Cell(None, aside="–")])
    return rows


def gain_cell(gain: Gain | None) -> Cell:
    """A gain in percent, with the part of the baseline that it is of, where that is not all.

    For "every": of the baseline's checkpoints; else of the seeds. Of an average: of all baselines'.
    """
    if gain is None:
        return Cell(None)
    if gain.mean is None:
        return Cell(None, aside="not reached")
    of = (gain.checkpoints, gain.asked) if gain.at == "every" else (gain.reached, gain.seeds)
    part = f"{of[0]} of {of[1]}" if of[0] < of[1] else ""
    return Cell(gain.mean, gain.low, gain.high, signed_percent, part)


def gains_table(found: Comparison) -> Table:
    """Every gain over every baseline, one column for each way to read it off."""
    asked: dict[tuple, dict[tuple, Gain]] = {}
    for g in found.gains:
        asked.setdefault((g.ours, g.baseline, g.kind, g.measure), {})[g.by, g.at] = g
    rows = []
    for (ours, baseline, kind, measure), each in asked.items():
        name = title_of(measure) if kind == "DG" else "Reward, normalised"
        rows.append([ours, baseline, kind, name, *(gain_cell(each.get(way)) for way in WAYS)])
    notes = [
        "DG: relative gain in diversity at equal reward; RG: in normalised reward at equal "
        f"diversity by {found.encoder}. Paper's protocol: our checkpoint that "
        "exceeds the baseline's last one least. Runs of one training seed are compared with one "
        "another; intervals are over seeds, by Student's t. Nothing is extrapolated: 'not reached' "
        "is no zero, and an average is over what was reached: 'm of n' of the seeds, or of the "
        "baseline's checkpoints in the last column; in an average, of all baselines'."
    ]
    header = ["", "Over", "Gain", "In", *map(capital, WAYS.values())]
    return Table("gains", "Gains over each baseline", header, rows, notes)


def p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value)


def differences_table(found: Comparison) -> Table:
    """Paired differences of last checkpoints over training seeds."""
    header = ["", "Less", "In", "Pairs", "Difference", "p"]
    rows = [
        [
            d.ours,
            d.baseline,
            title_of(d.measure),
            str(d.result.seeds),
            Cell(d.result.mean, d.result.low, d.result.high),
            Cell(d.result.p_value, show=p_value),
        ]
        for d in found.differences
    ]
    notes = [
        "Last checkpoints, paired by training seed; two-sided paired t-test and its 95 % interval, "
        "unless all pairs differ by the same. Equal epochs, not equal reward."
    ]
    return Table("differences", "Differences over training seeds", header, rows, notes)


def frontier_table(found: Comparison) -> Table:
    """Hypervolumes, and which checkpoints lie on the joint frontier."""
    on = found.on_frontier()
    header = ["", "Hypervolume", "Checkpoints on the joint frontier"]
    rows = []
    for arm in found.arms:
        areas = found.hypervolume(arm)
        steps = ", ".join(str(step) for label, step in on if label == arm.label) or "none"
        rows.append([arm.label, Cell(areas.mean().item(), *over_seeds(areas)), steps])
    notes = [
        "Area under the frontier of normalised reward and "
        f"diversity by {found.encoder} in units of the base model's, from "
        "(0, 0); interval over seeds by Student's t. Joint frontier: of the means over seeds; "
        "checkpoint 0 is the base model, which every arm has."
    ]
    return Table("frontier", "Frontiers", header, rows, notes)


def compute_table(found: Comparison) -> Table:
    """What each run took."""
    header = ["", "Seed", "Epochs", "Images sampled", "Denoiser rows", "Rewards", "Seconds"]
    rows = [
        [
            spent.run.label,
            str(spent.run.config.seed),
            str(spent.run.last),
            f"{spent.counted.images:,}",
            f"{spent.counted.network_evaluations:,}",
            f"{spent.counted.reward_calls:,}",
            "–" if spent.seconds is None else f"{spent.seconds:,.0f}",
        ]
        for spent in found.spent
    ]
    notes = [
        "Up to the last judged checkpoint, evaluation left out. A row through the denoiser is one "
        "latent at one step, with or without prompt; a backward pass counts as two. Seconds are "
        "of each run's own machine."
    ]
    return Table("compute", "Compute", header, rows, notes)


TABLES = (table1, gains_table, differences_table, frontier_table, compute_table)

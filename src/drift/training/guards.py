"""Guards: figures of an epoch beyond which a run is ill: told, or the end before it is saved.

Pure functions: lines of metrics.jsonl to sentences. `drift.training.diagnostics` warns of methods
that teach little; here the training itself has come off its way.
"""

from statistics import median
from typing import Any

from drift.config import GuardsConfig

WINDOW = 10  # epochs before, that a jump is measured from; fewer tell nothing


def breaches(lines: list[dict[str, Any]], guards: GuardsConfig) -> dict[str, str]:
    """What the latest epoch's metrics break, by the setting that says so; a limit of 0 is none."""
    if not lines:
        return {}
    epoch = lines[-1]["epoch"]
    latest = [line for line in lines if line["epoch"] == epoch]
    earlier = [line for line in lines if epoch - WINDOW <= line["epoch"] < epoch]
    worst = {
        "grad_norm": largest(latest, "grad_norm"),
        "approx_kl": largest(latest, "approx_kl"),
        "ratio_error": largest(latest, "max_ratio_error"),
        "grad_norm_jump": jump(latest, earlier),
        "reward_drop": drop(latest, earlier),
    }
    told = {
        "grad_norm": "the gradient's norm before clipping is {:.3g}",
        "approx_kl": "an update's approx_kl is {:.3g}",
        "ratio_error": "a sample's ratio is {:.3g} away from 1",
        "grad_norm_jump": f"the gradient's norm is {{:.3g}} times its median of {WINDOW} epochs",
        "reward_drop": "the reward is {:.3g} of its standard deviations within a prompt below its "
        f"median of {WINDOW} epochs",
    }
    return {
        f"guards.{name}": f"{told[name].format(value)}; guards.{name} is {limit:g}"
        for name, value in worst.items()
        if (limit := getattr(guards, name)) and value > limit
    }


def largest(lines: list[dict[str, Any]], name: str) -> float:
    """Of the updates that were taken; those skipped have no finite gradient."""
    return max((line[name] for line in lines if not line["skipped"]), default=0.0)


def jump(latest: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> float:
    """The latest gradient's norm in medians of the earlier ones; 0 where there are too few."""
    known = [line["grad_norm"] for line in earlier if not line["skipped"] and line["grad_norm"]]
    if len({line["epoch"] for line in earlier}) < WINDOW or not known:
        return 0.0
    return largest(latest, "grad_norm") / median(known)


def drop(latest: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> float:
    """How far the latest reward is below the earlier ones' median, in stds within a prompt."""
    by_epoch = {line["epoch"]: line for line in earlier}.values()
    spread = median([line["reward_std"] for line in by_epoch]) if by_epoch else 0.0
    if len(by_epoch) < WINDOW or not spread:
        return 0.0
    return (median([line["reward_mean"] for line in by_epoch]) - latest[0]["reward_mean"]) / spread

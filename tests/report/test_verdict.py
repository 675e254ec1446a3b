"""Sentences about two arms."""

from pathlib import Path

import pytest

from drift.recipes import load_recipe
from drift.report.arms import Compared, group
from drift.report.verdict import headline

REWARD, ENCODER = "pickscore-tiny", "clip-tiny"


def arm(method, rewards, diversities):
    """An arm of one run with these values by prompt at its only checkpoint."""
    figures = {f"reward/{REWARD}": rewards, f"diversity/{ENCODER}": diversities}
    told = {n: {"mean": sum(v) / len(v), "per_prompt": v} for n, v in figures.items()}
    evaluations = {0: {"figures": told}, 1: {"figures": told}}
    config = load_recipe("menagerie", [f"method={method}"])
    return group([Compared(method, Path(method), config, evaluations, [], {})])[0]


@pytest.mark.parametrize(("shift", "side"), [(-0.1, "lower"), (0.1, "higher"), (0.0, "different")])
def test_an_unclear_difference_tells_its_side(shift, side):
    wild = [1.0, -1.0, 2.0, -2.0, 0.5, -0.5]
    grpo = arm("grpo", [0.0] * 6, [0.4] * 6)
    drift = arm("drift", [shift + w for w in wild], [0.8] * 6)
    said = f"DRIFT draws more diverse pictures than GRPO, at a reward that is not clearly {side}."
    assert headline(grpo, drift, REWARD, ENCODER) == said
    assert headline(drift, grpo, REWARD, ENCODER) == said

"""Gains over baselines and seeds, worked out by hand on made-up evaluations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.report.arms import Compared, group
from drift.report.gains import (
    Scale,
    averaged,
    differences,
    gain,
    hypervolumes,
    pareto_set,
    scale_of,
)
from drift.report.seeds import over_seeds, paired

NAME = "diversity/clip-tiny"


def run(method, seed, *points, base=(0.0, 1.0)):
    """A run with checkpoints 1, 2, …, each a (reward, diversity)."""
    config = load_recipe("menagerie", [f"method={method}", f"seed={seed}"])

    def figure(value):
        return {"mean": value, "low": None, "high": None, "per_prompt": [value] * 5}

    evaluations = {
        step: {
            "settings": {"encoders": ["clip-tiny"], "rewards": ["pickscore-tiny"]},
            "figures": {"reward/pickscore-tiny": figure(x), NAME: figure(y)},
        }
        for step, (x, y) in enumerate([base, *points])
    }
    return Compared(f"{method}-{seed}", Path(f"{method}-{seed}"), config, evaluations, [], {})


UNIT = Scale("pickscore-tiny", 0.0, 1.0)


def arms(*runs):
    return group(runs)


def the_gain(ours, theirs, kind="DG", by="exceeding", at="last"):
    return gain(ours, theirs, UNIT, kind, NAME, by, at)


def test_runs_that_differ_in_their_seed_alone_are_one_arm():
    drift, grpo = arms(run("drift", 2), run("grpo", 1), run("drift", 1))
    assert (drift.label, drift.seeds, grpo.label, grpo.seeds) == ("DRIFT", [1, 2], "GRPO", [1])
    with pytest.raises(UserError, match="same run twice: seed 1"):
        arms(run("drift", 1), run("drift", 1))


def test_gains_are_of_one_seed_and_then_averaged():
    drift, grpo = arms(
        run("drift", 1, (0.5, 0.9), (0.9, 0.6)),
        run("drift", 2, (0.6, 0.6), (0.8, 0.4)),
        run("grpo", 1, (0.4, 0.8), (0.8, 0.4)),
        run("grpo", 2, (0.3, 0.7), (0.5, 0.5)),
    )
    # Seed 1: at 0.8 the checkpoint at 0.9 has 0.6 to 0.4: +50 %. Seed 2: at 0.5, 0.6 to 0.5: +20 %.
    found = the_gain(drift, grpo)
    assert found.mean == pytest.approx(0.35)
    assert (found.reached, found.seeds, found.checkpoints, found.asked) == (2, 2, 2, 2)
    # t of one degree of freedom at 97.5 % is 12.706; the spread of 0.5 and 0.2 is 0.3/sqrt(2).
    assert found.high - found.mean == pytest.approx(12.706 * 0.15, rel=1e-4)
    # RG: at 0.4 the checkpoint at 0.6 has reward 0.9 to 0.8; seed 2: at 0.5, 0.6 to 0.5.
    assert the_gain(drift, grpo, "RG").mean == pytest.approx((0.125 + 0.2) / 2)
    # By interpolation, over every checkpoint of the baseline: at 0.4 DRIFT's line from (0, 1) to
    # (0.5, 0.9) is at 0.92; at 0.8 its line from (0.5, 0.9) to (0.9, 0.6) is at 0.675; seed 2's
    # from (0, 1) to (0.6, 0.6) is at 0.8 and 2/3.
    every = the_gain(drift, grpo, by="interpolation", at="every")
    first = ((0.92 / 0.8 - 1) + (0.675 / 0.4 - 1)) / 2
    second = ((0.8 / 0.7 - 1) + (2 / 3 / 0.5 - 1)) / 2
    assert every.mean == pytest.approx((first + second) / 2)
    assert (every.checkpoints, every.asked) == (4, 4)


def test_a_coordinate_that_is_not_reached_is_no_number():
    drift, grpo = arms(
        run("drift", 1, (0.5, 0.9)),
        run("drift", 2, (0.5, 0.9)),
        run("grpo", 1, (0.7, 0.3)),
        run("grpo", 2, (0.4, 0.6)),
    )
    found = the_gain(drift, grpo)
    assert found.mean == pytest.approx(0.5) and (found.reached, found.seeds) == (1, 2)
    assert found.low is None  # of the seeds that reach there is but one
    never = the_gain(*arms(run("drift", 1, (0.5, 0.9)), run("grpo", 1, (0.7, 0.3))))
    assert (never.mean, never.reached, never.checkpoints, never.asked) == (None, 0, 0, 1)
    # The base model's own reward is no checkpoint of ours, but a place where our curve begins.
    low = arms(run("drift", 1, (0.5, 0.5)), run("grpo", 1, (0.25, 0.6)))
    assert the_gain(*low, "RG").mean is None
    assert the_gain(*low, "RG", by="interpolation").mean == pytest.approx(0.4 / 0.25 - 1)


def test_a_baseline_that_dominates_gives_a_loss():
    found = the_gain(*arms(run("drift", 1, (0.8, 0.3)), run("grpo", 1, (0.7, 0.6))))
    assert found.mean == pytest.approx(-0.5)


def test_the_average_over_baselines_leaves_out_what_was_not_reached():
    drift, grpo, ddpo = arms(
        run("drift", 1, (0.5, 0.9)), run("grpo", 1, (0.4, 0.6)), run("ddpo", 1, (0.9, 0.1))
    )
    mean = averaged([the_gain(drift, grpo), the_gain(drift, ddpo)])
    assert mean.mean == pytest.approx(0.5) and (mean.reached, mean.seeds) == (1, 2)
    assert averaged([the_gain(drift, ddpo)]).mean is None
    points = {"drift": (0.5, 0.9), "grpo": (0.4, 0.6)}
    drift, grpo = arms(*(run(m, s, points[m]) for m in points for s in (1, 2)))
    higher = replace(grpo, runs=(grpo.runs[0], run("grpo", 2, (0.9, 0.6))))
    mean = averaged([the_gain(drift, grpo), the_gain(drift, higher)])
    assert (mean.reached, mean.seeds) == (3, 4)  # pairs of runs, or one seed would look like all


def test_seeds_without_a_partner_are_refused():
    with pytest.raises(UserError, match=r"DRIFT \(seed 1\) and GRPO \(seed 2\) have no training"):
        the_gain(*arms(run("drift", 1, (0.5, 0.9)), run("grpo", 2, (0.4, 0.6))))


def test_the_scale_is_of_all_checkpoints_and_recorded():
    found = arms(run("drift", 1, (12.0, 0.9), base=(10.0, 1)), run("grpo", 1, (8.0, 1)))
    scale = scale_of(found, "pickscore-tiny")
    assert (scale.low, scale.high) == (0.0, 12.0)
    assert scale(torch.tensor([6.0])).tolist() == [0.5]
    still = scale_of(arms(run("drift", 1, (3.0, 1.0), base=(3.0, 1))), "pickscore-tiny")
    assert still(torch.tensor([3.0])).tolist() == [0.0]


def test_hypervolume_in_units_of_the_base_model():
    # Corners (0.5, 1) and (1, 0.5) after division by 2: 0.5 * 1 + 0.5 * 0.5.
    (drift,) = arms(run("drift", 1, (0.5, 2.0), (1.0, 1.0), base=(0.0, 2.0)))
    assert hypervolumes(drift, UNIT, NAME).tolist() == [0.75]


def test_the_pareto_set_of_seed_means():
    found = arms(
        run("drift", 1, (0.5, 0.9)), run("drift", 2, (0.7, 0.7)), run("grpo", 1, (0.55, 0.79))
    )
    # Neither of DRIFT's seeds is better than GRPO in both, but their mean (0.6, 0.8) is.
    assert pareto_set(found, UNIT, NAME) == [("DRIFT", 0), ("DRIFT", 1), ("GRPO", 0)]


def test_paired_differences_over_seeds():
    found = paired(torch.tensor([3.0, 5.0, 4.0]), torch.tensor([2.0, 3.0, 1.0]))
    # Gaps 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 3.4641 of 2 degrees of freedom.
    assert (found.seeds, found.mean) == (3, 2.0)
    assert found.p_value == pytest.approx(0.07418, abs=1e-5)
    assert found.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4)
    assert over_seeds(torch.tensor([1.0])) == (None, None)
    single = paired(torch.tensor([1.0]), torch.tensor([0.0]))
    assert (single.mean, single.low, single.p_value) == (1.0, None, None)
    # Seeds that differ by the same say nothing of how far seeds may differ.
    alike = paired(torch.tensor([0.7, 0.2]), torch.tensor([0.6, 0.1]))
    assert alike.mean == pytest.approx(0.1)
    assert (alike.low, alike.high, alike.p_value) == (None, None, None)
    none = paired(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert (none.mean, none.p_value) == (0.0, None)


def test_tests_are_of_every_figure_that_both_have():
    drift, grpo = arms(run("drift", 1, (0.5, 0.9)), run("grpo", 1, (0.7, 0.3)))
    found = differences([drift], [grpo], [NAME, "coverage"])
    assert [(d.ours, d.baseline, d.measure) for d in found] == [("DRIFT", "GRPO", NAME)]
    assert found[0].result.mean == pytest.approx(0.6)

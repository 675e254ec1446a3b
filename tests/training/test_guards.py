"""Limits of an epoch's figures: by hand, and a run that one of them ends."""

import json
from dataclasses import replace

import pytest

from drift.config import GuardsConfig
from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.guards import WINDOW, breaches
from drift.training.loop import train

CALM = {
    "grad_norm": 2.0,
    "approx_kl": 0.01,
    "max_ratio_error": 0.1,
    "reward_mean": 5.0,
    "reward_std": 0.5,
    "skipped": False,
}


def course(epochs: int, **last):
    """Two updates an epoch; the last epoch's second one has the figures of `last`."""
    lines = [CALM | {"epoch": e, "update": u} for e in range(1, epochs + 1) for u in (1, 2)]
    return [*lines[:-1], lines[-1] | last]


@pytest.mark.parametrize(
    "limit, last, value",
    [
        ({"grad_norm": 10.0}, {"grad_norm": 10.5}, "is 10.5"),
        ({"grad_norm_jump": 4.0}, {"grad_norm": 9.0}, "is 4.5 times"),
        ({"approx_kl": 0.05}, {"approx_kl": 0.06}, "is 0.06"),
        ({"ratio_error": 0.5}, {"max_ratio_error": 0.75}, "is 0.75 away"),
    ],
)
def test_each_limit_is_told_by_its_name(limit, last, value):
    (name, number), guards = *limit.items(), replace(GuardsConfig(), **limit)
    (told,) = breaches(course(WINDOW + 1, **last), guards).items()
    assert told[0] == f"guards.{name}"
    assert value in told[1] and told[1].endswith(f"guards.{name} is {number:g}")
    assert breaches(course(WINDOW + 1), guards) == {}
    assert breaches(course(WINDOW + 1, **last), replace(guards, **{name: 0.0})) == {}
    assert breaches(course(WINDOW + 1, **last, skipped=True), guards) == {}  # it changed nothing


def test_a_fall_of_the_reward_counts_in_its_standard_deviations():
    fall = [*course(WINDOW), *({**line, "reward_mean": 3.9} for line in course(WINDOW + 1)[-2:])]
    (told,) = breaches(fall, GuardsConfig(reward_drop=2.0)).values()
    assert "is 2.2 of its standard deviations" in told
    assert breaches(fall, GuardsConfig(reward_drop=2.5)) == {}


def test_a_jump_needs_ten_epochs_before_it():
    assert breaches(course(WINDOW, grad_norm=1e9), GuardsConfig()) == {}
    assert breaches([], GuardsConfig()) == {}


@pytest.mark.parametrize("limit", ["nan", ".inf", "-1"])
def test_limits_are_finite(limit):
    with pytest.raises(UserError, match=r"guards\.?.*grad_norm"):
        load_recipe("menagerie", ["method=grpo", f"guards.grad_norm={limit}"])


def test_a_run_that_a_guard_ends_keeps_its_last_good_checkpoint(tiny_model, tmp_path):
    small = [
        *("epochs=3", "checkpoint_every=1", "threads=1", "sampling.steps=2"),
        *("sampling.prompts_per_epoch=2", "sampling.pool_size=2", "sampling.group_size=2"),
        *("optimizer.updates_per_epoch=1", "model.lora_rank=2", "method=grpo"),
        *(f"model.name={tiny_model}", f"output={tmp_path}/run"),
    ]
    train(load_recipe("menagerie", [*small, "epochs=1"]), progress=False)
    norm = json.loads((tmp_path / "run/metrics.jsonl").read_text())["grad_norm"]
    assert norm > 0
    strict = ["guards.grad_norm=1e-9", "guards.on_breach=stop"]
    with pytest.raises(UserError, match=r"^epoch 2: the gradient's norm .* that of epoch 1; to go"):
        train(load_recipe("menagerie", [*small, *strict]), resume=True, progress=False)
    saved = sorted(folder.name for folder in (tmp_path / "run/checkpoints").iterdir())
    assert saved == ["step-000001"]
    train(load_recipe("menagerie", [*small, "guards.grad_norm=1e-9"]), resume=True, progress=False)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]

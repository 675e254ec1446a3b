"""The closing table, from figures written by hand."""

import json

import pytest
import torch

from drift.config import to_yaml
from drift.evaluation.measures import summarise, whole
from drift.evaluation.stored import FORMAT, evaluation_folder
from drift.recipes import load_recipe
from drift.report.terminal import cell, closing_table, mean_figures

SETTINGS = {
    "prompts": ["a fox", "a cat", "a bee"],
    "images_per_prompt": 16,
    "seed": 7,
    "rewards": ["pickscore-tiny"],
    "encoders": ["dreamsim-tiny", "clip-tiny"],
}


def figures(reward):
    def around(mean):
        return summarise(torch.tensor([mean - 0.1, mean, mean + 0.1]))

    found = {
        "reward/pickscore-tiny": around(reward),
        "possible/pickscore": around(6.0),
        "right_animal": summarise(torch.tensor([0.5, 0.75, torch.nan])),
    }
    for name in SETTINGS["encoders"]:
        found[f"diversity/{name}"] = around(0.5)
        found[f"vendi_all/{name}"] = whole(7.25)
    return found


def write(run, step, reward, model="ab"):
    folder = evaluation_folder(run, step)
    folder.mkdir(parents=True)
    metrics = {
        "format": FORMAT,
        "step": step,
        "settings": SETTINGS,
        "model": {"name": f"model-{model}", "sha256": model},
        "adapter": {"epoch": step, "sha256": "cd"} if step else None,
        "figures": figures(reward),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def run(tmp_path):
    """(name, overrides) -> the evaluations of a run's base model and two checkpoints."""

    def make(name, *overrides, method="drift"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = load_recipe(f"menagerie-{method}", [f"output={name}", *overrides])
        (folder / "config.yaml").write_text(to_yaml(config))
        return [write(folder, step, reward) for step, reward in ((0, 1.0), (20, 2.0), (40, 3.0))]

    return make


def test_a_column_for_each_model_and_the_best_judge_first(run):
    lines = closing_table([*run("one"), *run("two", method="grpo")], width=200)
    assert lines[0].split() == ["base", "model", "one", "one", "two", "two"]
    assert lines[1].split() == ["epoch", "20", "epoch", "40"] * 2
    assert [line.split("  ")[0] for line in lines[2:8]] == [
        "reward, pickscore-tiny",
        "right animal",
        "diversity, clip-tiny",
        "Vendi of the set, clip-tiny",
        "diversity, dreamsim-tiny",
        "Vendi of the set, dreamsim-tiny",
    ]
    shown = ["1.00 [0.90, 1.10]", "2.00 [1.90, 2.10]", "3.00 [2.90, 3.10]"]
    assert [c.strip() for c in lines[2].split("  ") if c][1:] == [*shown, *shown[1:]]
    assert lines[8:] == [
        "",
        "3 prompts, 16 images each from seed 7 on; in brackets: 95 % intervals over prompts",
        "dreamsim-tiny was rewarded in one: judge diversity by the others",
    ]


def test_a_narrow_terminal_gets_blocks(run):
    lines = closing_table([*run("one"), *run("two")], width=80)
    table = lines[: lines.index("", lines.index("", lines.index("") + 1) + 1)]
    assert max(map(len, table)) <= 80
    blocks = "\n".join(table).split("\n\n")
    assert [block.split("\n")[0].split() for block in blocks] == [
        ["base", "model", "one"],
        ["one", "two"],
        ["two"],
    ]
    assert {len(block.split("\n")) for block in blocks} == {2 + 6}


def test_runs_that_differ_in_their_seed_have_a_mean(run):
    one, two = run("one", "seed=1"), run("two", "seed=2", "threads=1", "evaluation.steps=9")
    other = run("three", "seed=3", "sampling.eta=0.9")
    for folder, reward in ((two[1], 2.5), (two[2], 4.0)):
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(metrics | {"figures": figures(reward)}))
    lines = closing_table([*one, *two, *other], width=300)
    heads = [head.strip() for head in lines[0].split("  ") if head.strip()]
    names = ["one", "one", "two", "two", "three", "three"]
    assert heads == ["base model", "drift, 2 seeds", "drift, 2 seeds", *names]
    assert "1.00 [0.90, 1.10]  2.25 [" in lines[2] and "]  3.50 [" in lines[2]
    assert "of means: over seeds and prompts, too narrow with 2 or 3 seeds" in lines

    again = [*run("four", "seed=1", "sampling.eta=0.8"), *run("five", "seed=2", "sampling.eta=0.8")]
    heads = closing_table([*one, *two, *again], width=300)[0]
    assert heads.count("drift, 2 seeds") == heads.count("mean of four, five") == 2


def test_runs_and_models_of_one_name_are_told_apart(run, tmp_path):
    other = write(tmp_path / "plain", 0, 1.0, model="ef")
    lines = closing_table([*run("a/x"), *run("b/x"), other], width=400)
    assert [lines[0].count(str(tmp_path / k / "x")[-33:]) for k in "ab"] == [2, 2]
    assert "model-ab" in lines[0] and "model-ef" in lines[0]


def test_means_over_seeds_by_hand():
    """Two seeds of three prompts, of which one has no value with the second seed."""
    one, two = figures(1.0), figures(3.0)
    two["right_animal"] = summarise(torch.tensor([0.5, torch.nan, torch.nan]))
    del two["diversity/clip-tiny"]
    two["vendi_all/clip-tiny"] = whole(8.25)
    means = mean_figures([one, two])
    reward = means["reward/pickscore-tiny"]
    assert reward["mean"] == pytest.approx(2.0)
    assert reward["low"] == pytest.approx(1.0, abs=0.1) and reward["high"] == pytest.approx(
        3.0, abs=0.1
    )
    assert means["right_animal"]["mean"] == 0.5  # of the first prompt alone
    assert (means["vendi_all/clip-tiny"]["mean"], means["vendi_all/clip-tiny"]["low"]) == (
        7.75,
        7.25,
    )
    assert "diversity/clip-tiny" not in means
    one["right_animal"] = summarise(torch.tensor([torch.nan, 0.5, 0.5]))
    assert "right_animal" not in mean_figures([one, two])  # no prompt has both


@pytest.mark.parametrize(
    ("values", "share", "shown"),
    [
        ((10.264, 10.14, 10.39), False, "10.26 [10.14, 10.39]"),
        ((-0.8, -0.92, -0.7), False, "−0.80 [−0.92, −0.70]"),
        ((19.2172, 19.2171, 19.2173), False, "19.22 [19.22, 19.22]"),
        ((0.0123, 0.01, 0.0146), False, "0.012 [0.010, 0.015]"),
        ((1234.5, 1100.0, 1300.0), False, "1,234 [1,100, 1,300]"),
        ((7.25, None, None), False, "7.25"),
        ((2.0, 2.0, 2.0), False, "2.00"),
        ((0.743, 0.7, 0.8), True, "74 % [70, 80]"),
        ((None, None, None), True, "–"),
    ],
)
def test_cells_show_no_more_than_is_certain(values, share, shown):
    assert cell(dict(zip(("mean", "low", "high"), values, strict=True)), share) == shown
    assert cell(None, share) == "–"

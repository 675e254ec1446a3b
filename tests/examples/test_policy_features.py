import math

import pytest
import torch

from drift.recipes import load_recipe
from drift.training.loop import train
from examples.policy_features import auc, course, ranks, spearman, table

SMALL = [
    "encoder=policy",
    "evaluation.encoders=[vae]",
    "epochs=1",
    "threads=1",
    "sampling.steps=2",
    "evaluation.steps=2",
    "optimizer.learning_rate=0.05",
    "model.lora_rank=2",
]


def test_agreement_by_hand():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1, 2.5, 4]
    one = torch.tensor([1.0, 2.0, 3.0, 40.0])
    assert spearman(one, one.square()) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    differs = torch.tensor([False, False, True, True])
    assert auc(one, differs) == 1
    assert auc(-one, differs) == 0
    assert auc(torch.ones(4), differs) == 0.5
    assert auc(torch.tensor([1.0, 3.0, 2.0, 4.0]), differs) == 0.75
    assert math.isnan(auc(one, differs | True))


def test_the_table_has_a_line_a_measure_and_agrees_with_itself():
    lines = [row for row in table(["a horse", "a bee"], 5, (0,), 2) if row.startswith("|")]
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in row[1:-1].split("|")] for row in lines)
    }
    assert {"dreamsim-tiny", "clip-tiny", "vae", "policy", "- one place"} <= rows.keys()
    assert {len(cells) for cells in rows.values()} == {6}
    assert rows["dreamsim-tiny"][0].startswith("1.00 (1.00–1.00)")
    assert rows["policy"] == rows["- last step alone"]  # the last quarter of two steps


def test_what_a_run_did_to_its_features(tiny_model, tmp_path):
    own = [f"model.name={tiny_model}", f"output={tmp_path / 'run'}", *SMALL]
    header, _, base, trained = course(train(load_recipe("smoke", own), progress=False), images=2)
    assert header.count("|") == base.count("|") == trained.count("|")
    epoch, *before = [float(text) for text in base.strip("|").split("|")]
    assert epoch == 0
    assert before[2] == before[3] == before[4]
    epoch, *after = [float(text) for text in trained.strip("|").split("|")]
    assert epoch == 1
    assert after != before
    assert len({after[2], after[3], before[2]}) == 3

import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from drift.config import load_recipe
from drift.errors import UserError
from drift.tracking import read_metrics
from drift.train import draw_prompts, train

SMALL = [
    "epochs=2",
    "checkpoint_every=1",
    "threads=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "optimizer.updates_per_epoch=2",
    "model.lora_rank=2",
]


@pytest.fixture
def config(tiny_model, tmp_path):
    def build(method: str, name: str = "run", *overrides: str):
        own = [f"method={method}", f"model.name={tiny_model}", f"output={tmp_path / name}"]
        return load_recipe("menagerie", [*SMALL, *own, *overrides])

    return build


def assert_equal_weights(one, two, epoch=2):
    for name in ("pytorch_lora_weights.safetensors", "optimizer.safetensors"):
        a, b = (load_file(run / f"checkpoints/step-{epoch:06d}/{name}") for run in (one, two))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def timeless(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run)]


@pytest.mark.parametrize("method", ["grpo", "drift"])
def test_a_run_leaves_what_it_promises(config, method):
    run = train(config(method), progress=False)
    lines = read_metrics(run)
    assert [(line["epoch"], line["update"]) for line in lines] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert lines[-1]["images_sampled"] == 16
    assert lines[0]["first_clip_fraction"] == 0
    assert lines[0]["max_ratio_error"] < 1e-6
    assert all(torch.tensor(line["reward_mean"]).isfinite() for line in lines)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    assert yaml.safe_load((run / "config.yaml").read_text())["method_name"] == method
    assert "torch" in json.loads((run / "environment.json").read_text())["packages"]


def test_equal_seeds_give_equal_runs_and_other_seeds_others(config):
    one = train(config("drift", "one"), progress=False)
    two = train(config("drift", "two"), progress=False)
    other = train(config("drift", "other", "seed=1"), progress=False)
    assert_equal_weights(one, two)
    assert timeless(one) == timeless(two)
    assert timeless(one) != timeless(other)


def test_a_resumed_run_is_the_uninterrupted_one(config):
    whole = train(config("drift", "whole"), progress=False)
    train(config("drift", "parts", "epochs=1"), progress=False)
    parts = train(config("drift", "parts"), resume=True, progress=False)
    assert_equal_weights(whole, parts)
    assert timeless(whole) == timeless(parts)
    before = (parts / "metrics.jsonl").read_bytes()
    train(config("drift", "parts"), resume=True, progress=False)  # finished: a no-op
    assert (parts / "metrics.jsonl").read_bytes() == before


def test_a_folder_holds_one_run(config):
    train(config("grpo", "run", "epochs=1"), progress=False)
    with pytest.raises(UserError, match="already holds a run"):
        train(config("grpo"), progress=False)
    with pytest.raises(UserError, match="other method"):
        train(config("drift"), resume=True, progress=False)


def test_an_output_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output: cannot write"):
        train(config("grpo", "file/run"), progress=False)


def test_nothing_is_written_when_a_part_is_missing(config, tmp_path):
    bad = replace(config("grpo"), reward="nonsense")
    with pytest.raises(UserError, match="nonsense"):
        train(bad, progress=False)
    assert not (tmp_path / "run").exists()


def test_every_prompt_is_drawn_before_any_repeats():
    prompts = [f"prompt {k}" for k in range(6)]
    drawn = [draw_prompts(prompts, 4, seed=0, epoch=e) for e in (1, 2, 3)]
    flat = [p for row in drawn for p in row]
    assert sorted(flat[:6]) == sorted(flat[6:]) == prompts
    assert flat[:6] != flat[6:]

import json
from dataclasses import replace

import pytest
import torch

import drift.training.plan
from drift.encoders import load_encoder
from drift.recipes import load_recipe, read_prompts
from drift.rewards import load_reward
from drift.training.loop import train
from drift.training.memory import peak_memory
from drift.training.plan import MOST, SIZES, changes, fit, limit, plan, sizes, stages
from drift.training.policy import load_policy, make_trainable

SMALL = ["sampling.steps=3", "model.lora_rank=2", "threads=1"]


@pytest.fixture(scope="module")
def parts(tiny_model):
    """(config, model, reward, encoder) of the Menagerie's recipe on the tiny model."""
    config = load_recipe("menagerie", [*SMALL, f"model.name={tiny_model}"])
    model = load_policy(config)
    make_trainable(model, config)
    return config, model, load_reward("pickscore-tiny"), load_encoder("dreamsim-tiny")


@pytest.mark.parametrize(
    ("most", "free", "expected"),
    [
        (16, 1000, 16),  # 10 + 16 * 5 = 90
        (16, 90, 16),
        (16, 89, 8),
        (16, 49, 4),
        (16, 20, 2),
        (16, 19, 1),
        (16, 0, 1),  # one row is tried whatever the forecast
        (24, 89, 12),
        (1, 0, 1),
    ],
)
def test_the_size_is_halved_until_it_fits(most, free, expected):
    """One row takes 15 bytes, each further one 5."""
    assert fit(most, 15, 20, free) == expected


def test_rows_that_cost_nothing_always_fit():
    assert fit(64, 10, 10, 10) == 64
    assert fit(64, 10, 9, 10) == 64  # measured by chance a little less


def test_what_fits_is_left_as_it_was_asked_for(parts):
    config = parts[0]
    assert plan(*parts) == config
    assert changes(config, plan(*parts)) == []


def test_with_little_memory_every_stage_takes_what_fits(parts):
    config, model = parts[:2]
    free = 60_000_000
    planned = plan(*parts, free=free)
    assert replace(planned, sampling=config.sampling, optimizer=config.optimizer) == config
    chosen = sizes(planned)
    assert chosen["optimizer.micro_batch_size"] < 64
    for stage in stages(*parts):
        if chosen[stage.field] < sizes(config)[stage.field]:
            size = chosen[stage.field]
            assert peak_memory(lambda s=stage, n=size: s.work(n), model.device) < free
            assert peak_memory(lambda s=stage, n=2 * size: s.work(n), model.device) > 0.95 * free
    told = "\n".join(changes(config, planned))
    size = chosen["optimizer.micro_batch_size"]
    assert f"micro_batch_size: {size} at once, for 64 do not fit into memory" in told


def test_nothing_free_leaves_one_row_a_stage(parts):
    assert set(sizes(plan(*parts, free=0)).values()) == {1}


def test_sizes_left_open_are_filled(parts):
    config = replace(
        parts[0],
        sampling=replace(parts[0].sampling, batch_size=0, scoring_batch_size=0),
        optimizer=replace(parts[0].optimizer, micro_batch_size=0),
    )
    planned = plan(config, *parts[1:])
    assert sizes(planned) == dict.fromkeys(SIZES, MOST) | {"sampling.decode_batch_size": 8}
    assert changes(config, planned)[0] == "sampling.batch_size: 64 at once"
    few = replace(config, sampling=replace(config.sampling, prompts_per_epoch=2, pool_size=16))
    assert sizes(plan(few, *parts[1:]))["sampling.batch_size"] == 32  # no more than there are


def test_a_stage_that_runs_out_of_memory_with_two_rows_takes_one(parts):
    model = parts[1]

    def exhaust(module, inputs):
        if len(inputs[0]) > 2:  # with guidance a row is two
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.network.register_forward_pre_hook(exhaust)
    chosen = sizes(plan(*parts))
    hook.remove()
    assert chosen["sampling.batch_size"] == chosen["optimizer.micro_batch_size"] == 1
    assert chosen["sampling.decode_batch_size"] == 8


def test_what_a_first_call_keeps_is_in_use_before_the_rows_are_measured(parts):
    """As the base of a model that is trained whole, which is read when first asked for."""
    config, model, reward, encoder = parts
    kept, calls = [], []

    def keeps(images, prompts):
        calls.append(len(images))
        if not kept:
            kept.append(torch.zeros(10**7))  # 40 MB, for good
        return reward(images, prompts)

    free = 4 * 10**7
    assert plan(config, model, keeps, encoder, free=free) == plan(*parts, free=free)
    assert calls == [1, 2]  # and not one row for the price of all that was kept


def test_a_reward_is_tried_on_the_runs_own_prompts(parts):
    config, model, reward, encoder = parts
    known = read_prompts(config.prompts)

    def strict(images, prompts):
        assert set(prompts) <= set(known)
        return reward(images, prompts)

    plan(config, model, strict, encoder)


def test_a_plan_leaves_no_trace(parts):
    model = parts[1]
    before = [p.clone() for p in model.trainable_parameters()]
    state = torch.get_rng_state()
    plan(*parts)
    assert torch.equal(state, torch.get_rng_state())
    for old, parameter in zip(before, model.trainable_parameters(), strict=True):
        assert torch.equal(old, parameter)
        assert parameter.grad is None


def test_a_full_group_at_once_is_not_split(parts):
    config, model, _, encoder = parts

    def spread(images, prompts):
        raise AssertionError("a reward of whole groups was asked with less")

    spread.per_group = True
    assert plan(config, model, spread, encoder) == config
    assert plan(config, model, lambda x, prompts: x.mean((1, 2, 3)), None) == config


def test_limits_go_before_what_is_asked():
    config = load_recipe("smoke", ["sampling.batch_size=0"])
    before = {"sampling.batch_size": 4, "optimizer.micro_batch_size": 100}
    assert sizes(limit(config, before)) == sizes(config) | {"sampling.batch_size": 4}


def test_a_resumed_run_takes_no_larger_sizes(tiny_model, tmp_path, capsys, monkeypatch):
    small = ["sampling.prompts_per_epoch=2", "sampling.pool_size=4", "sampling.group_size=2"]
    small += [f"model.name={tiny_model}", f"output={tmp_path / 'run'}"]
    small += ["optimizer.micro_batch_size=0"]

    def run(epochs: int) -> dict[str, int]:
        config = load_recipe("menagerie", [*SMALL, *small, f"epochs={epochs}"])
        folder = train(config, resume=epochs > 1, progress=False)
        text = (folder / f"checkpoints/step-00000{epochs}/state.json").read_text()
        return json.loads(text)["batch_sizes"]

    with monkeypatch.context() as patch:
        patch.setattr(drift.training.plan, "free_memory", lambda device: 6_000_000)
        first = run(1)
    assert first["optimizer.micro_batch_size"] < 12  # 4 samples, 3 steps
    assert f"micro_batch_size: {first['optimizer.micro_batch_size']}" in capsys.readouterr().out
    assert run(2) == first


def test_every_encoder_is_planned_for(parts):
    config, model, reward, encoder = parts
    greedy = []

    def other(images):
        greedy.append(images.new_zeros(len(images), 30_000_000))  # 120 MB a picture
        return greedy.pop()

    free = 1_000_000_000
    alone, both = (
        sizes(plan(config, model, reward, *encoders, free=free))
        for encoders in ([encoder], [encoder, other])
    )
    assert both["sampling.scoring_batch_size"] < alone["sampling.scoring_batch_size"] == 64
    same = alone | {"sampling.scoring_batch_size": both["sampling.scoring_batch_size"]}
    assert both == same

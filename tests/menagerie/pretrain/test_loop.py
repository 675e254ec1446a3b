import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from drift.menagerie.pretrain.loop import Schedule, Workshop, fit
from drift.menagerie.pretrain.muon import Muon
from drift.menagerie.pretrain.together import agreed, average_gradients, processes

SCHEDULE = Schedule(steps=8, batch_size=4, learning_rate=0.1, warmup=2, save_every=3)


def build():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def train(work, module, stop_at=None, schedule=SCHEDULE):
    seen = []

    def loss_at(step: int, rng: np.random.Generator):
        if step == stop_at:
            raise KeyboardInterrupt
        seen.append(step)
        x = torch.from_numpy(rng.standard_normal((4, 3), np.float32)) + torch.randn(1)
        return (module(x) - x.sum(1, keepdim=True)).square().mean()

    fit("part", module, loss_at, schedule, Workshop(work))
    return seen


def test_the_rate_warms_up_and_falls_to_zero():
    assert SCHEDULE.rate(0, 0.0) == pytest.approx(0.05)
    assert SCHEDULE.rate(2, 2 / 8) == pytest.approx(0.1)
    assert SCHEDULE.rate(5, 5 / 8) == pytest.approx(0.05)  # half-way through the cosine
    assert SCHEDULE.rate(8, 1.0) == pytest.approx(0.0)


def test_a_training_by_the_clock_stops_there_and_counts_what_ran_before(tmp_path):
    by_clock = replace(SCHEDULE, minutes=0.5 / 60, save_every=1000)
    module = build()
    started = time.monotonic()
    seen = train(tmp_path, module, schedule=by_clock)
    assert 0.5 <= time.monotonic() - started < 5
    assert len(seen) > SCHEDULE.steps  # which does not count
    assert by_clock.rate(500, 0.5) == pytest.approx(0.05)
    assert by_clock.rate(500, 1.0) == pytest.approx(0.0)
    assert train(tmp_path, build(), schedule=by_clock) == []  # its minutes are over


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    whole = build()
    train(tmp_path / "whole", whole)
    parts = build()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", parts, stop_at=5)
    again = build()
    assert train(tmp_path / "parts", again) == [3, 4, 5, 6, 7]
    assert torch.equal(whole.weight, again.weight)
    assert torch.equal(whole.bias, again.bias)


def test_training_learns(tmp_path):
    module = build()
    before = (module.weight - 1).abs().max()
    train(tmp_path, module)
    assert (module.weight - 1).abs().max() < before


def _one_of_two(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    module = build()
    module(torch.full((1, 3), 1.0 + rank)).sum().backward()  # gradients 1 and 2; bias 1 and 1
    average_gradients(list(module.parameters()))
    assert module.weight.grad.tolist() == [[1.5, 1.5, 1.5]]
    assert module.bias.grad.tolist() == [1.0]
    assert agreed(0.25 + rank) == 0.25
    steps = []
    for alone in (False, True):  # the same step, shared out or not
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 16), nn.Linear(16, 40))
        layers(torch.ones(1, 20)).square().sum().backward()
        if alone:
            dist.destroy_process_group()
        Muon(layers.parameters(), lr=0.1).step()
        steps.append(nn.utils.parameters_to_vector(layers.parameters()))
    torch.testing.assert_close(steps[0], steps[1])


def test_two_processes_average_their_gradients(tmp_path):
    address = f"file://{tmp_path / 'meeting'}"
    torch.multiprocessing.spawn(_one_of_two, args=(address,), nprocs=2)


def test_alone_a_process_is_the_first_of_one():
    assert processes() == (0, 1)

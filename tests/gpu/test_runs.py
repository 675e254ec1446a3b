"""Runs on a card from end to end: all of the network under a penalty, resuming, the doctor."""

import re

import pytest
import torch
from safetensors.torch import load_file

from drift.recipes import load_recipe
from drift.training.doctor import examine
from drift.training.loop import train
from drift.training.tracking import read_metrics
from tests.training.test_loop import SMALL

pytestmark = pytest.mark.gpu


@pytest.fixture
def config(tiny_model, tmp_path, device):
    def make(name, *overrides):
        own = [f"model.name={tiny_model}", f"output={tmp_path / name}", f"device={device}"]
        return load_recipe("menagerie", [*SMALL, *own, *overrides])

    return make


def weights(run, epoch=2):
    folder = run / f"checkpoints/step-{epoch:06d}"
    state = load_file(folder / "pytorch_lora_weights.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_of_the_network_trains_under_a_penalty(config, told, dtype):
    full = ["model.tune=full", "optimizer.learning_rate=1e-4", "method=grpo-kl", "epochs=1"]
    lines = read_metrics(train(config("full", *full, f"model.dtype={dtype}"), progress=False))
    told(f"full, {dtype}: KL to the base by update", [line["reference_kl"] for line in lines])
    assert not any(line["skipped"] for line in lines)
    assert lines[0]["reference_kl"] == pytest.approx(0, abs=1e-3 if dtype != "float32" else 1e-6)
    assert lines[1]["reference_kl"] > lines[0]["reference_kl"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_resumed_run_is_as_near_as_the_same_run_again(config, told, dtype):
    """Bit for bit, unless the card's own kernels differ from one run to the next."""
    own = f"model.dtype={dtype}"
    whole = weights(train(config("whole", own), progress=False))
    again = weights(train(config("again", own), progress=False))
    train(config("parts", own, "epochs=1"), progress=False)
    parts = weights(train(config("parts", own), resume=True, progress=False))
    noise, apart = ((whole - other).abs().max().item() for other in (again, parts))
    told(f"resume, {dtype}: the same run again differs by, a resumed one by", [noise, apart])
    assert apart <= 3 * noise


def test_the_doctor_foretells_an_epoch(config, told):
    own = ["epochs=3", "sampling.steps=10", "sampling.batch_size=8", "sampling.pool_size=4"]
    own += ["sampling.group_size=4"]
    lines = []
    assert examine(config("doctor", *own), say=lines.append)
    assert examine(config("doctor", *own), say=lines.append)  # the first was this process's first
    said = re.search(r"about ([\d.]+) s an epoch", "\n".join(lines[len(lines) // 2 :]))
    assert said, lines
    run = train(config("run", *own), progress=False)
    spent = next(line["seconds"] for line in read_metrics(run) if line["epoch"] == 3)
    real = sum(spent.values())
    told("doctor: seconds foretold and real", [float(said[1]), real])
    assert float(said[1]) == pytest.approx(real, rel=0.3, abs=0.1)

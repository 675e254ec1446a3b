"""What can be known of devices on a machine without one: runs on a pretended card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drift.training.tracking import read_metrics

SMALL = ["threads=1", "sampling.steps=3", "sampling.pool_size=6", "sampling.group_size=3"]


def drift(*commands: list[str]) -> None:
    """Run `drift` commands with the card, in a process of their own: torch then believes in it."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "card.py"), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def training(output: Path, device: str, *more: str) -> list[str]:
    return ["train", "smoke", f"output={output}", f"device={device}", "--quiet", *SMALL, *more]


def adapter(run: Path, epoch: int):
    return load_file(run / f"checkpoints/step-{epoch:06d}/pytorch_lora_weights.safetensors")


def assert_alike(one: Path, two: Path, epoch: int) -> None:
    """The same metrics, and the same weights but where Adam makes a step of a rounding error."""
    for ours, theirs in zip(read_metrics(one), read_metrics(two), strict=True):
        for figure in ("reward_mean", "kept_reward_mean", "diversity", "loss", "grad_norm"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-3, abs=1e-6), figure
        assert ours["first_clip_fraction"] == 0
    ours, theirs = adapter(one, epoch), adapter(two, epoch)
    ours, theirs = (torch.cat([w[key].flatten() for key in sorted(w)]) for w in (ours, theirs))
    assert (ours - theirs).norm() <= 0.02 * theirs.norm()


def test_a_run_on_another_device_computes_the_same(tmp_path):
    one, two = tmp_path / "card", tmp_path / "cpu"
    drift(training(one, "card:0", "epochs=1"), training(two, "cpu", "epochs=1"))
    assert_alike(one, two, 1)


@pytest.mark.slow
def test_everything_else_works_on_another_device(tmp_path):
    """Resuming, judging, drawing, the doctor, and the parts that the first run does not have."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    other = ["method=grpo-kl", "reward=hpsv2-tiny + 0.1*jpeg-compressibility", "encoder=vae"]
    other += ["epochs=1", "model.gradient_checkpointing=true"]
    drift(
        training(whole, "card:0", "epochs=2"),
        training(again, "card:0", "epochs=1"),
        [*training(again, "card:0", "epochs=2"), "--resume"],
        ["evaluate", str(whole), "images_per_prompt=2"],
        ["generate", str(whole), "--prompt", "a fox", "--out", str(tmp_path / "pictures")],
        ["doctor", "smoke", "device=card:0", *SMALL],
        training(tmp_path / "kl", "card:0", *other),
        training(tmp_path / "kl-cpu", "cpu", *other),
    )
    resumed = adapter(again, 2)
    assert all(torch.equal(resumed[key], tensor) for key, tensor in adapter(whole, 2).items())
    assert_alike(tmp_path / "kl", tmp_path / "kl-cpu", 1)
    assert (whole / "evaluations/step-000002/metrics.json").exists()

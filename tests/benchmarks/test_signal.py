import json

import pytest
import torch

from benchmarks import signal
from benchmarks.__main__ import main

SMALL = [
    "epochs=2",
    "threads=1",
    "sampling.steps=3",
    "sampling.eta=1.0",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=4",
    "model.lora_rank=2",
    "reward=jpeg-compressibility",
]


def drawn(mean: torch.Tensor, noise: list[float], batches: int = 400) -> torch.Tensor:
    """Inner products of batches of gradients "B T D": `mean`, and noise of so much by step."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.randn(batches, *mean.shape, generator=generator, dtype=torch.float64)
    g = mean + chance * torch.tensor(noise, dtype=torch.float64)[:, None]
    return torch.einsum("akd,bld->abkl", g, g)


def test_signal_noise_and_best_weights_are_found():
    one, two = torch.zeros(20).double(), torch.zeros(20).double()
    one[0], two[0] = 3.0, 1.0
    found = signal.analyse(drawn(torch.stack([one, two]), [0.5, 1.0]))
    assert found.signal.tolist() == pytest.approx([9, 1], rel=0.1)
    assert found.noise.tolist() == pytest.approx([20 * 0.25, 20], rel=0.05)
    assert found.cosine[0] == pytest.approx(9 / (9 + 5), abs=0.02)
    # Signal over noise squared: 3 * (3 + 1) / 5 to 1 * (3 + 1) / 20, of mean 1.
    assert found.weights[0] / found.weights[1] == pytest.approx(12, rel=0.15)
    assert found.best > found.total


def test_steps_of_chance_alone_have_no_signal():
    found = signal.analyse(drawn(torch.zeros(2, 20).double(), [1.0, 2.0]))
    assert found.cosine.abs().max() < 0.01
    assert abs(found.total) < 0.01


def test_the_gradients_of_the_steps_add_up_to_the_updates(tiny_model, tmp_path, monkeypatch):
    """And the figures of a recipe are printed and kept."""
    seen = []

    def spied(run, lesson):
        rows = gradients(run, lesson)
        pairs = signal.trained_pairs(lesson.kept, torch.arange(lesson.kept.seeds.numel()))
        whole = signal.trial_gradient(run.model, lesson.kept, lesson.signal, run.config, pairs)
        flat = torch.cat([g.flatten() for g in whole if g is not None])
        seen.append((rows.mean(0), flat))
        return rows

    gradients = signal.gradients
    monkeypatch.setattr(signal, "gradients", spied)
    out = tmp_path / "signal.json"
    arguments = ["menagerie", "method=grpo", f"model.name={tiny_model}", *SMALL]
    monkeypatch.setattr(
        "sys.argv", ["benchmarks", "signal", *arguments, "--batches", "2", "--out", str(out)]
    )
    main()
    for rows, whole in seen:
        torch.testing.assert_close(rows, whole, rtol=1e-3, atol=1e-6)
    told = json.loads(out.read_text())
    assert len(told["cosine"]) == len(told["weights"]) == 3
    assert told["batches"] == 2

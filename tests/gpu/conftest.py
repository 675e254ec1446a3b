"""Tests of what only a card can tell: `pytest -m gpu tests/gpu`.

DRIFT_GPU_REHEARSAL=cpu runs on the processor those that can; DRIFT_GPU_REPORT names a JSON file for
the numbers that they measure.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from drift.models import load_model
from drift.training.policy import use_tf32


@pytest.fixture(scope="session")
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("DRIFT_GPU_REHEARSAL") == "cpu":
        return torch.device("cpu")
    pytest.skip("needs a CUDA device, or DRIFT_GPU_REHEARSAL=cpu")


@pytest.fixture(autouse=True)
def exact_float32():
    """As runs in float32 have it; whatever a test or a run in it switches on ends with it."""
    use_tf32(False)
    yield
    use_tf32(False)


@pytest.fixture(scope="session")
def told():
    """Tell a measured number by name; written when it is told, so that a crash keeps the others."""
    numbers = {}

    def tell(name: str, value) -> None:
        numbers[name] = value
        print(f"{name}: {value}")
        if file := os.environ.get("DRIFT_GPU_REPORT"):
            Path(file).write_text(json.dumps(numbers, indent=1), encoding="utf-8")

    return tell


@pytest.fixture
def policy(tiny_model, device):
    """Load the tiny model with an adapter as after some training: no factor is 0."""

    def load(dtype: str = "float32", on: torch.device = device, **settings):
        model = load_model(str(tiny_model), device=on, dtype=getattr(torch, dtype), **settings)
        model.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.trainable_parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator).to(on)
        return model

    return load

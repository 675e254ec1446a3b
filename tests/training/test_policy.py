"""What a run's policy sets in the process around it."""

import pytest
import torch

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.policy import load_policy, pick_device


@pytest.fixture
def restored():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("dtype, wanted", [("float32", False), ("bfloat16", True)])
def test_tf32_is_off_where_the_policy_computes_in_float32(tiny_model, restored, dtype, wanted):
    asked = [f"model.name={tiny_model}", f"model.dtype={dtype}", "device=cpu"]
    load_policy(load_recipe("smoke", asked))
    assert torch.backends.cudnn.allow_tf32 is wanted
    assert torch.backends.cuda.matmul.allow_tf32 is wanted


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_cannot_compute_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=f"^device: '{name}' cannot be used: ") as error:
        pick_device(name)
    assert "\n" not in str(error.value)

import pytest
import torch

from drift.errors import UserError
from drift.rewards.head import Head, infer_widths

NAMES = [f"layers.{layer}" for layer in (0, 2, 4, 6, 7)]


def test_five_linear_layers_and_nothing_between_by_hand():
    head = Head([2, 1, 1, 1, 1, 1])
    layers = [([[1.0, -3.0]], -1.0), ([[2.0]], 0.0), ([[1.0]], 5.0), ([[-1.0]], 0.0), ([[0.5]], 1)]
    for name, (weight, bias) in zip(NAMES, layers, strict=True):
        head.get_submodule(name).weight.data = torch.tensor(weight)
        head.get_submodule(name).bias.data = torch.tensor([float(bias)])
    # 2 - 3 - 1 = -2; doubled -4; + 5 = 1; -1; / 2 + 1 = 0.5.  Zero: -1, -2, 3, -3, -0.5
    got = head(torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    assert got.tolist() == [0.5, -0.5]


def test_names_and_widths_are_those_of_the_state_dict(tmp_path):
    head = Head([24, 6, 5, 4, 3, 1])
    state = head.state_dict()
    assert sorted(state) == sorted(f"{n}.{kind}" for n in NAMES for kind in ("weight", "bias"))
    told = {"source": tmp_path, "kind": "head"}
    assert infer_widths(state, **told) == [24, 6, 5, 4, 3, 1]
    prefixed = {f"mlp.{name}": tensor for name, tensor in state.items()}
    assert infer_widths(prefixed, prefix="mlp.", **told) == [24, 6, 5, 4, 3, 1]
    with pytest.raises(UserError, match="it lacks layers.0.weight, layers.2.weight"):
        infer_widths(prefixed, **told)

"""Files of weights: what is read, what is refused, and what a misfit says."""

import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from drift.errors import UserError
from drift.files.weights import fit_weights, read_weights, settle_header


def test_reads_safetensors_and_published_pt(tmp_path):
    state = {"weight": torch.arange(6.0).view(2, 3)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "a.pth.tar")
    safe = read_weights(tmp_path / "a.safetensors", field="reward")
    published = read_weights(tmp_path / "a.pth.tar", field="reward")["state_dict"]
    assert torch.equal(safe["weight"], state["weight"])
    assert torch.equal(published["weight"], state["weight"])


def test_a_settled_header_makes_equal_weights_equal_bytes(tmp_path):
    state = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.float16)}
    notes = {name: name * 9 for name in "zyxwvutsr"}  # nine keys: hardly ever in the same order
    written = set()
    for k in range(5):
        save_file(state, tmp_path / f"{k}.safetensors", metadata=notes)
        settle_header(tmp_path / f"{k}.safetensors")
        written.add((tmp_path / f"{k}.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as stored:
        assert stored.metadata() == notes
        assert all(torch.equal(stored.get_tensor(name), state[name]) for name in state)


def test_a_truncated_file_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:120])
    with pytest.raises(UserError, match=r"reward: cannot read weights from .*a\.safetensors"):
        read_weights(file, field="reward")


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_pickle_posing_as_weights_runs_no_code(tmp_path, name):
    trace = tmp_path / "trace"
    (tmp_path / name).write_bytes(pickle.dumps(Planted(str(trace))))
    with pytest.raises(UserError, match="encoder: cannot read weights"):
        read_weights(tmp_path / name, field="encoder")
    assert not trace.exists()


def test_a_missing_file_and_a_file_without_weights_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_weights(tmp_path / "absent.pt", field="reward")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="holds no weights but a Tensor"):
        read_weights(tmp_path / "tensor.pt", field="reward")


def test_a_misfit_lists_keys_of_each_kind_and_changes_nothing(tmp_path):
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {"0.weight": torch.zeros(3, 2), "extra": torch.zeros(1)}
    with pytest.raises(UserError) as error:
        fit_weights(module, state, source=tmp_path / "w.pt", field="reward")
    told = str(error.value)
    assert "7 missing: 0.bias, 1.bias, 1.weight, 2.bias, 2.weight ..." in told
    assert "1 unexpected: extra" in told
    assert "1 of another shape: 0.weight [3, 2] for [2, 2]" in told
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_half_precision_becomes_float32(tmp_path):
    module = nn.Linear(2, 1)
    state = {"weight": torch.ones(1, 2).half(), "bias": torch.ones(1).half()}
    fit_weights(module, state, source=tmp_path, field="reward")
    assert module.weight.dtype == torch.float32 and module.weight.tolist() == [[1.0, 1.0]]

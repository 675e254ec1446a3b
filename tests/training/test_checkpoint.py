import json

import pytest
import torch

from drift.models import load_model
from drift.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

MODULES = ("to_q", "to_v")


def fresh(folder, seed=0):
    model = load_model(str(folder))
    model.add_adapter(2, 4, MODULES, seed=seed)
    return model, torch.optim.AdamW(model.trainable_parameters(), lr=0.1)


@pytest.fixture
def trained(tiny_model):
    model, optimizer = fresh(tiny_model)
    for parameter in model.trainable_parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def test_weights_and_moments_come_back_bit_for_bit(trained, tiny_model, tmp_path):
    save_checkpoint(tmp_path, 3, *trained)
    (found,), damaged = list_checkpoints(tmp_path)
    assert not damaged
    assert found.epoch == 3
    model, optimizer = fresh(tiny_model, seed=9)
    load_checkpoint(found, model, optimizer)
    pairs = zip(trained[0].trainable_parameters(), model.trainable_parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    before, after = trained[1].state_dict()["state"], optimizer.state_dict()["state"]
    assert before.keys() == after.keys()
    for index, row in before.items():
        for key, value in row.items():
            assert torch.equal(value, after[index][key])


def test_the_methods_state_comes_back_as_it_was(trained, tiny_model, tmp_path):
    rewards = torch.randn(5, generator=torch.Generator().manual_seed(0)).tolist()
    save_checkpoint(tmp_path, 1, *trained, {"a fox": rewards, "ein Käfer": []})
    save_checkpoint(tmp_path, 2, *trained)
    (one, two), _ = list_checkpoints(tmp_path)
    assert load_checkpoint(one, *fresh(tiny_model)) == {"a fox": rewards, "ein Käfer": []}
    assert load_checkpoint(two, *fresh(tiny_model)) == {}
    (one.folder / "state.json").write_text("{}")
    assert "'state.json' is damaged" in list_checkpoints(tmp_path)[1][0]


def test_a_damaged_checkpoint_is_skipped_and_named(trained, tmp_path):
    save_checkpoint(tmp_path, 1, *trained)
    newest = save_checkpoint(tmp_path, 2, *trained)
    weights = newest / "optimizer.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    valid, damaged = list_checkpoints(tmp_path)
    assert [c.epoch for c in valid] == [1]
    assert len(damaged) == 1
    assert "'optimizer.safetensors' is damaged" in damaged[0]


def test_a_half_written_checkpoint_is_not_seen(trained, tmp_path):
    folder = save_checkpoint(tmp_path, 1, *trained)
    (folder / "manifest.json").unlink()
    valid, damaged = list_checkpoints(tmp_path)
    assert not valid
    assert "is incomplete" in damaged[0]


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"epoch": 1, "files": {"../x": "0"}}))
    result = read_checkpoint(tmp_path)
    assert not isinstance(result, Checkpoint)
    assert "outside itself" in result


def test_saving_again_replaces(trained, tmp_path):
    first = save_checkpoint(tmp_path, 1, *trained)
    assert save_checkpoint(tmp_path, 1, *trained) == first
    assert [path.name for path in first.parent.iterdir()] == ["step-000001"]

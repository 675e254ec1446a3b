import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.files import checksums
from drift.files.checksums import checksum
from drift.files.manifest import seal
from drift.models import load_model
from drift.training.checkpoint import (
    MOMENTS,
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from drift.training.runs import choose_checkpoints
from tests.files.test_writing import files_of_at_most

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
    manifest = {"epoch": 1, "files": {"../x": "0"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    result = read_checkpoint(tmp_path)
    assert not isinstance(result, Checkpoint)
    assert "outside itself" in result


def test_saving_again_replaces(trained, tmp_path):
    first = save_checkpoint(tmp_path, 1, *trained)
    assert save_checkpoint(tmp_path, 1, *trained) == first
    assert [path.name for path in first.parent.iterdir()] == ["step-000001"]


def test_every_flipped_bit_of_a_manifest_and_a_sample_of_the_rest_is_found(trained, tmp_path):
    folder = save_checkpoint(tmp_path, 4, *trained)
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        places = (
            range(len(content)) if file.name == "manifest.json" else range(0, len(content), 997)
        )
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            file.write_bytes(flipped)
            assert isinstance(read_checkpoint(folder), str), (file.name, place)
        file.write_bytes(content)
    assert isinstance(read_checkpoint(folder), Checkpoint)


def as_before(folder, **changes):
    """Have a folder's manifest as it was written before it protected itself."""
    path = folder / "manifest.json"
    old = {key: json.loads(path.read_text())[key] for key in ("epoch", "files")} | changes
    path.write_text(json.dumps(old, indent=1))


def test_a_checkpoint_of_before_is_taken_unless_its_epoch_is_not_that_of_its_name(
    trained, tiny_model, tmp_path
):
    folder = save_checkpoint(tmp_path, 4, *trained)
    as_before(folder)
    found = read_checkpoint(folder)
    assert isinstance(found, Checkpoint) and (found.epoch, found.moments) == (4, None)
    assert load_checkpoint(found, *fresh(tiny_model)) == {}
    for epoch in (5, 0, -4, "4", None):
        as_before(folder, epoch=epoch)
        assert "unlike its name" in str(read_checkpoint(folder))
    as_before(folder, epoch=4, files={})
    assert isinstance(read_checkpoint(folder), str)


def test_only_what_is_asked_for_is_read(trained, tmp_path, monkeypatch):
    for epoch in range(1, 6):
        save_checkpoint(tmp_path, epoch, *trained)
    (tmp_path / "checkpoints/step-000005/state.json").write_text("null")
    read, told = set(), []
    monkeypatch.setattr(
        checksums, "checksum", lambda file: read.add(file.parent.name) or checksum(file)
    )
    found = newest_checkpoint(tmp_path, told.append)
    assert found is not None and found.epoch == 4 and read == {"step-000005", "step-000004"}
    assert len(told) == 1 and "'state.json' is damaged" in told[0]
    read.clear()
    assert [c.epoch for c in choose_checkpoints(tmp_path, "2")] == [2] and read == {"step-000002"}


def forge(folder, name, change):
    """Change the tensors of a file, and seal the folder anew: the checksums fit."""
    facts = json.loads((folder / "manifest.json").read_text())
    tensors = change(load_file(folder / name))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name)
    (folder / "manifest.json").unlink()
    seal(folder, epoch=facts["epoch"], moments=facts["moments"])


def first(tensors, change):
    name = min(name for name, tensor in tensors.items() if tensor.ndim)
    return {**tensors, name: change(tensors[name])}


LORA = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (LORA, lambda t: dict(sorted(t.items())[::2]), "does not fit the run's LoRA; .* missing"),
        (LORA, lambda t: {}, "does not fit the run's LoRA"),
        (LORA, lambda t: first(t, lambda x: x * float("nan")), "that are not finite"),
        (MOMENTS, lambda t: first(t, lambda x: x + float("inf")), "that are not finite"),
        (MOMENTS, lambda t: first(t, torch.Tensor.half), "in torch.float16, not in float32"),
        (MOMENTS, lambda t: dict(sorted(t.items())[1:]), "does not fit the run's optimizer; 1 mis"),
        (MOMENTS, lambda t: {}, "does not fit the run's optimizer; .* missing"),
        (MOMENTS, lambda t: first(t, lambda x: x[:1]), "of another shape"),
    ],
)
def test_what_no_run_writes_is_not_loaded(name, change, told, trained, tiny_model, tmp_path):
    folder = save_checkpoint(tmp_path, 1, *trained)
    forge(folder, name, change)
    found = read_checkpoint(folder)
    assert isinstance(found, Checkpoint)
    with pytest.raises(UserError, match=f"^checkpoint: .*{told}") as error:
        load_checkpoint(found, *fresh(tiny_model))
    assert "\n" not in str(error.value)


def test_numbers_that_are_not_finite_are_not_saved(trained, tmp_path):
    good = save_checkpoint(tmp_path, 1, *trained)
    model, optimizer = trained
    moment = next(iter(optimizer.state.values()))["exp_avg"]
    told = f"not finite after epoch 2, and are not saved; the last good checkpoint is {good}"
    for tensor, value in ((moment, float("inf")), (model.trainable_parameters()[0], float("nan"))):
        with torch.no_grad():
            kept = tensor.flatten()[0].item()
            tensor.view(-1)[0] = value
            with pytest.raises(UserError, match=told):
                save_checkpoint(tmp_path, 2, *trained)
            tensor.view(-1)[0] = kept
    assert [path.name for path in good.parent.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("size", [0, 100, 4096, 20_000])
def test_a_full_disk_leaves_the_checkpoints_that_there_are(size, trained, tmp_path):
    good = save_checkpoint(tmp_path, 1, *trained)
    for epoch in (1, 2):
        with files_of_at_most(size), pytest.raises(UserError, match="^output: cannot write "):
            save_checkpoint(tmp_path, epoch, *trained)
    assert [path.name for path in good.parent.iterdir()] == ["step-000001"]
    assert isinstance(read_checkpoint(good), Checkpoint)

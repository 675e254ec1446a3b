import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drift.encoders import load_encoder
from drift.encoders.dreamsim import Branch, DreamSim, load
from drift.errors import UserError

TINY = {"image_size": 16, "patch_size": 8, "width": 8, "depth": 1, "heads": 2}
GREY = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def write(folder: Path, *widths: int) -> DreamSim:
    """An encoder of random branches, saved in `folder`."""
    torch.manual_seed(0)
    entries = [
        {"weights": f"{k}.safetensors", **TINY, **GREY, "width": w} for k, w in enumerate(widths)
    ]
    (folder / "config.json").write_text(json.dumps({"branches": entries}))
    branches = [Branch(**{k: v for k, v in e.items() if k != "weights"}) for e in entries]
    for branch, entry in zip(branches, entries, strict=True):
        save_file(branch.vit.half().state_dict(), folder / entry["weights"])
        branch.vit.float()
    return DreamSim(branches)


def test_what_was_saved_is_loaded(tmp_path):
    images = torch.rand(3, 3, 16, 16)
    saved, loaded = write(tmp_path, 8), load(tmp_path)
    torch.testing.assert_close(loaded(images), saved(images))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded(images).dtype == torch.float32


def test_branches_are_joined_centred_and_normalised(tmp_path):
    write(tmp_path, 8, 12)
    encoder, images = load(tmp_path), torch.rand(3, 3, 16, 16)
    features = encoder(images)
    assert features.shape == (3, 20)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(features.mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    first, second = (branch(images) for branch in encoder.branches)
    centred = torch.cat([first, second], 1)
    centred = centred - centred.mean(1, keepdim=True)
    torch.testing.assert_close(features, centred / centred.norm(dim=1, keepdim=True))


def test_pictures_are_squashed_not_cropped():
    branch = Branch(**TINY, **GREY)
    stripes = torch.zeros(1, 3, 16, 64)
    stripes[..., :8] = stripes[..., -8:] = 1.0  # an eighth of the width at either end
    square = branch.prepare(stripes)
    assert square.shape == (1, 3, 16, 16)
    row = square[0, 0, 8] * 0.25 + 0.5
    expected = torch.zeros(16)
    expected[:2] = expected[-2:] = 1.0
    torch.testing.assert_close(row, expected, atol=0.08, rtol=0)  # bicubic edges
    assert row.min() >= 0 and row.max() <= 1


def test_a_picture_of_the_right_size_is_only_normalised():
    images = torch.rand(2, 3, 16, 16)
    branch = Branch(**TINY, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    shift, scale = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    expected = (images - shift[:, None, None]) / scale[:, None, None]
    torch.testing.assert_close(branch.prepare(images), expected)


def test_a_wrong_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="config.json is missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="no 'branches'"):
        load(tmp_path)
    write(tmp_path, 8)
    (tmp_path / "0.safetensors").unlink()
    with pytest.raises(UserError, match="0.safetensors' is missing"):
        load(tmp_path)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="choose one of dreamsim, .*clip-tiny"):
        load_encoder("dreamsim-huge")


def test_the_shipped_encoder_sees_what_differs():
    encoder = load_encoder("dreamsim-tiny")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    features = encoder(torch.cat([images, (images + 0.02 * torch.randn_like(images)).clamp(0, 1)]))
    assert features.shape == (4, 128)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    distance = torch.cdist(features, features).square()
    assert distance[0, 1] > 10 * distance[0, 2]  # another picture; the same one with noise

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.encoders.dino import load
from drift.errors import UserError
from tests.encoders.conftest import SPOILT


def test_the_middle_of_the_resized_picture_is_seen(golden):
    encoder = load(golden("dino") / "dino.pth")
    images = torch.rand(1, 3, 256, 300)
    prepared = encoder.prepare(images)
    assert prepared.shape == (1, 3, 224, 224)
    # red at row 16, column 38 of the picture: ImageNet's mean 0.485 and deviation 0.229
    torch.testing.assert_close(prepared[0, 0, 0, 0], (images[0, 0, 16, 38] - 0.485) / 0.229)


def test_features_have_length_one_and_ask_for_no_gradient(golden):
    encoder = load(golden("dino") / "dino.pth")
    features = encoder(torch.rand(2, 3, 30, 40))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert features.dtype == torch.float32 and not features.requires_grad


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("file", ["dino/dino.pth", "dino-vit/model.safetensors"])
def test_spoilt_weights_are_refused_in_one_line(golden, spoil, file, how):
    name, _, weights = file.partition("/")
    path = golden(name) / weights
    spoil(path, how)
    with pytest.raises(UserError, match="^encoder: ") as error:
        load(path.parent if name == "dino-vit" else path)
    assert "\n" not in str(error.value)


def test_misfits_are_named(golden, tmp_path):
    file = golden("dino") / "dino.pth"
    state = torch.load(file, weights_only=True)
    torch.save({k: v for k, v in state.items() if "norm1" not in k}, file)
    with pytest.raises(UserError, match="2 missing: blocks.0.norm1.bias, blocks.0.norm1.weight"):
        load(file)
    torch.save({"student": state}, file)
    with pytest.raises(UserError, match="holds no ViT of DINO"):
        load(file)
    folder = golden("dinov2")
    state = load_file(folder / "model.safetensors")
    state["layernorm.bias"] = torch.ones(3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="layernorm.bias"):
        load(folder)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no valid config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="is a clip; DINO's are of type vit or dinov2"):
        load(tmp_path)

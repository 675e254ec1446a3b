import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from drift.encoders.vae import VaeLatents, load
from drift.errors import UserError
from tests.encoders.conftest import SPOILT

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny autoencoder's folder."""
    return shutil.copytree(tiny_model / "vae", tmp_path / "vae")


@torch.no_grad()
def test_features_are_the_scaled_means_of_diffusers(tiny_model):
    vae = AutoencoderKL.from_pretrained(tiny_model / "vae")
    images = torch.rand(3, 3, 64, 64)
    mean = vae.encode(images * 2 - 1).latent_dist.mean
    expected = (mean * vae.config.scaling_factor).flatten(1) / 1024**0.5  # 16 x 8 x 8 elements
    for path in (tiny_model, tiny_model / "vae"):
        features = load(path)(images)
        torch.testing.assert_close(features, expected)
        assert features.dtype == torch.float32


class Halves:
    """An autoencoder whose latent is a quarter of each pixel: 0.25 (2x - 1)."""

    def __init__(self, **config):
        self.config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(config)

    def encode(self, pixels):
        return type("Out", (), {"latent_dist": type("Dist", (), {"mean": pixels / 4})})


@pytest.mark.parametrize(("shift", "expected"), [(None, [0.25, -0.25]), (0.25, [-0.25, -0.75])])
def test_shift_and_scale_by_hand(shift, expected):
    encoder = VaeLatents(Halves(scaling_factor=2.0, shift_factor=shift))
    images = torch.tensor([0.75, 0.25])[:, None, None, None].expand(2, 3, 2, 2)
    features = encoder.encode(images)  # 2 (0.25 (2x - 1) - shift), over the root of 12 elements
    wanted = torch.tensor(expected)[:, None].expand(2, 12) / 12**0.5
    torch.testing.assert_close(features, wanted)
    squared = (features[0] - features[1]).square().sum()
    torch.testing.assert_close(squared, torch.tensor(0.25))  # 0.5 apart everywhere


def test_names_of_attention_in_published_files_are_understood(folder):
    """Stable Diffusion's file has diffusers' first names, `query` for `to_q`."""
    images = torch.rand(1, 3, 64, 64)
    expected = load(folder)(images)
    state = load_file(folder / WEIGHTS)
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for name, tensor in state.items():
        for new, first in old.items():
            name = name.replace(new, first)
        renamed[name] = tensor
    assert renamed.keys() != state.keys()
    save_file(renamed, folder / WEIGHTS, {"format": "pt"})
    assert torch.equal(load(folder)(images), expected)


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_weights_are_refused_in_one_line(folder, spoil, how):
    spoil(folder / WEIGHTS, how)
    with pytest.raises(UserError, match="^encoder: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_misfits_are_named(folder):
    state = load_file(folder / WEIGHTS)
    del state["encoder.conv_in.bias"]
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="1 missing: encoder.conv_in.bias"):
        load(folder)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no autoencoder of diffusers"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(UserError, match="is a VQModel, not an AutoencoderKL"):
        load(tmp_path)

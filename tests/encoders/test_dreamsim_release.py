import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.encoders import dreamsim_release, load_encoder
from drift.encoders.dreamsim import load
from drift.encoders.dreamsim_release import DINO_FILE, RELEASES, backbone, merge_lora
from drift.errors import UserError
from tests.encoders.conftest import SPOILT
from tests.serving import serving

SMALL = {"image_size": 224, "width": 16, "depth": 12, "heads": 2}
SINGLE = "dino_vitb16_single"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(dreamsim_release, "VIT_B", SMALL)


def write_lora(folder, factors, r=2, alpha=1):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": r, "lora_alpha": alpha}))
    names = {
        f"base_model.model.extractor_list.{name}.weight": t.clone() for name, t in factors.items()
    }
    save_file(names, folder / "adapter_model.safetensors")
    return folder


A = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # r x in
B = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])  # out x r
QKV = "0.model.blocks.0.attn.qkv.lora_"


def test_a_lora_is_merged_by_hand(tmp_path):
    states = [{"blocks.0.attn.qkv.weight": torch.ones(3, 2), "norm.bias": torch.ones(2)}]
    merge_lora(states, write_lora(tmp_path, {QKV + "A": A, QKV + "B": B}))
    # 1 + 1/2 * B @ A, with B @ A = [[1, 2], [0, 2], [0, 0]]
    expected = torch.tensor([[1.5, 2.0], [1.0, 2.0], [1.0, 1.0]])
    assert torch.equal(states[0]["blocks.0.attn.qkv.weight"], expected)
    assert torch.equal(states[0]["norm.bias"], torch.ones(2))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "1 misfits: 0.blocks.0.attn.qkv.weight"),
        ({QKV + "A": A}, "1 misfits: 0.blocks.0.attn.qkv.weight"),
        (
            {QKV + "A": A, QKV + "B": B, "1" + QKV[1:] + "A": A},
            "1 misfits: 1.blocks.0.attn.qkv.weight",
        ),
        ({QKV + "A": A, QKV + "B": B[:2]}, r"B \[2, 2\] and A \[2, 2\] for \[3, 2\]"),
        ({QKV + "A": A[:1], QKV + "B": B}, r"B \[3, 2\] and A \[1, 2\] for \[3, 2\]"),
        ({QKV + "A": A, QKV + "B": B, "0.mlp": A}, "'.*0.mlp.weight', which is no LoRA weight"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(tmp_path, factors, message):
    states = [{"blocks.0.attn.qkv.weight": torch.ones(3, 2)}]
    with pytest.raises(UserError, match=message):
        merge_lora(states, write_lora(tmp_path, factors))


def test_a_lora_without_its_config_is_refused(tmp_path):
    write_lora(tmp_path, {QKV + "A": A, QKV + "B": B})
    for content in ("{", "{}"):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match="lacks a valid adapter_config.json"):
            merge_lora([], tmp_path)


def test_an_adapter_in_the_older_form_serves_as_well(golden):
    folder, images = golden("dreamsim"), torch.rand(1, 3, 224, 224)
    expected = load(folder, release=SINGLE)(images)
    file = folder / f"{SINGLE}_lora" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert torch.equal(load(folder, release=SINGLE)(images), expected)


def test_names_of_a_backbone():
    state = backbone({"state_dict": {"pos_drop.bias": A, "pos_embed": B}})
    assert state.keys() == {"norm_pre.bias", "pos_embed"}


def test_the_dino_backbone_may_lie_where_torch_hub_puts_it(golden, monkeypatch):
    folder, images = golden("dreamsim"), torch.rand(1, 3, 224, 224)
    expected = load(folder, release=SINGLE)(images)
    (folder / "checkpoints").mkdir()
    elsewhere = (folder / DINO_FILE).rename(folder / "checkpoints" / DINO_FILE)
    assert torch.equal(load(folder, release=SINGLE)(images), expected)
    elsewhere = elsewhere.rename(folder.parent / DINO_FILE)
    monkeypatch.setattr(dreamsim_release, "locate", lambda weights, field: elsewhere)
    assert torch.equal(load(folder, release=SINGLE)(images), expected)


def test_a_missing_dino_backbone_is_named_with_its_source(golden, monkeypatch, tmp_path):
    folder = golden("dreamsim")
    (folder / DINO_FILE).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="dl.fbaipublicfiles.com/dino/.*343 MB.*Apache-2.0"):
        load(folder, release=SINGLE)


@pytest.fixture
def server(tmp_path):
    """The address of a web server over an empty folder, and the folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with serving(handler) as web:
        yield f"http://127.0.0.1:{web.server_port}", folder


def test_a_release_is_downloaded_unpacked_and_kept(golden, server, monkeypatch, tmp_path):
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder, (address, web) = golden("dreamsim"), server
    images = torch.rand(1, 3, 224, 224)
    expected = load(folder, release=SINGLE)(images)
    shutil.make_archive(str(web / "release"), "zip", folder)
    name = f"dreamsim-dino-vitb16:{address}/release.zip"
    assert torch.equal(load_encoder(name)(images), expected)
    (web / "release.zip").unlink()
    assert torch.equal(load_encoder(name)(images), expected)


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(
    "file", ["clip_vitb16_pretrain.pth.tar", "ensemble_lora/adapter_model.safetensors"]
)
def test_spoilt_files_are_refused_in_one_line(golden, spoil, file, how):
    folder = golden("dreamsim")
    spoil(folder / file, how)
    with pytest.raises(UserError, match="^encoder: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_misfits_are_named(golden, monkeypatch):
    folder = golden("dreamsim")
    monkeypatch.setattr(dreamsim_release, "VIT_B", SMALL | {"depth": 11})
    with pytest.raises(UserError, match=f"{DINO_FILE} does not fit .*12 unexpected: blocks.11"):
        load(folder)


@pytest.mark.parametrize("release", RELEASES)
def test_another_folder_is_refused_by_what_it_lacks(tmp_path, release):
    with pytest.raises(UserError, match=f"config.json is missing, and so .* {release}_lora"):
        load(tmp_path, release=release)

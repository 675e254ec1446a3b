"""Features against the reference packages' own (see tests/golden/make_encoders.py).

Small random checkpoints in the published layouts; pictures smaller, larger and oblong.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from drift.encoders import clip, dino, dreamsim, dreamsim_release, open_clip
from drift.encoders.vit import VisionTransformer
from tests.golden.pictures import pictures

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
LAYOUTS = json.loads((GOLDEN / "layouts.json").read_text())
# Measured: at most 2.1e-7. A LayerNorm's eps of 1e-6 for 1e-5, or back, changes 5e-6.
close = partial(assert_close, rtol=0, atol=2e-6)


def check(encoder, folder: Path, prefix: str = "") -> None:
    expected = load_file(folder / "expected.safetensors")
    for name, images in pictures().items():
        close(encoder(images), expected[prefix + name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("release", dreamsim_release.RELEASES)
def test_dreamsim(release, monkeypatch):
    patch_size = 32 if "vitb32" in release else 16
    small = {"image_size": 224, "width": 256 // patch_size, "depth": 12, "heads": 2}
    monkeypatch.setattr(dreamsim_release, "VIT_B", small)
    check(dreamsim.load(GOLDEN / "dreamsim", release=release), GOLDEN / "dreamsim", f"{release}/")


@pytest.mark.parametrize("folder", ["clip", "open_clip", "open_clip-quick"])
def test_clip(folder):
    check(clip.load(GOLDEN / folder), GOLDEN / folder)


@pytest.mark.parametrize("path", ["dino/dino.pth", "dino-vit", "dinov2"])
def test_dino(path):
    check(dino.load(GOLDEN / path), GOLDEN / path.split("/")[0])


def meta(layout: str) -> dict[str, torch.Tensor]:
    """A published file's names and shapes, as tensors without content."""
    return {name: torch.empty(shape, device="meta") for name, shape in LAYOUTS[layout].items()}


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("release", ["ensemble", "clip_vitb32_single"])
def test_full_size_dreamsim_fits_its_files(release):
    for file, vit in dreamsim_release.RELEASES[release]:
        layout = file.removeprefix("open_")  # open_clip's branch has the names of clip's
        with torch.device("meta"):
            branch = dreamsim.Branch(**dreamsim_release.VIT_B, **vit)
        published = dreamsim_release.backbone({"state_dict": meta(layout)})
        assert shapes(branch.vit.state_dict()) == shapes(published)


def test_full_size_lora_fits_the_ensemble(monkeypatch):
    files = ["dino_vitbase16_pretrain.pth"] + 2 * ["clip_vitb16_pretrain.pth.tar"]
    states = [dreamsim_release.backbone(meta(file)) for file in files]
    before = [shapes(state) for state in states]
    monkeypatch.setattr(dreamsim_release, "read_weights", lambda *a, **k: meta("ensemble_lora"))
    dreamsim_release.merge_lora(states, GOLDEN / "dreamsim" / "ensemble_lora")
    assert [shapes(state) for state in states] == before


@pytest.mark.parametrize(
    ("layout", "heads", "size"), [("ViT-B-32", 12, (224, 512)), ("ViT-H-14", 16, (224, 1024))]
)
def test_full_size_open_clip_fits_its_files(layout, heads, size):
    state = open_clip.to_vit(meta(layout))
    arguments = open_clip.infer(state)
    with torch.device("meta"):
        tower = VisionTransformer(**arguments, eps=1e-5, pre_norm=True)
    assert shapes(tower.state_dict()) == shapes(state)
    assert arguments["heads"] == heads
    assert (arguments["image_size"], arguments["projection"]) == size


def test_full_size_dino_fits_its_file():
    state = meta("dino_vitbase16_pretrain.pth")
    arguments = open_clip.infer(state)
    with torch.device("meta"):
        network = VisionTransformer(**arguments)
    assert shapes(network.state_dict()) == shapes(state)
    assert arguments == {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "projection": 0,
    }

"""A tiny random CLIP in both published layouts; what tests/golden/make_rewards.py wrote."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from drift.menagerie.pretrain.clip import save_open_clip, save_transformers

GOLDEN = Path(__file__).parents[1] / "golden" / "rewards"


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden_images() -> list[torch.Tensor]:
    """Two pictures "2 3 H W" in [0, 1] of each of six sizes; the models' input is 32 x 32."""
    with np.load(GOLDEN / "images.npz") as drawn:
        return [torch.from_numpy(drawn[size]).float() / 255 for size in drawn]


@pytest.fixture(scope="session")
def layouts():
    """Published models by name: the names of their state dicts' tensors, on the meta device."""
    written = json.loads((GOLDEN / "layouts.json").read_text())

    def expand(layout: dict[str, list]) -> dict[str, torch.Tensor]:
        return {
            name.replace("*", str(number)): torch.empty(shape, device="meta")
            for name, (shape, layers) in layout.items()
            for number in range(layers or 1)
        }

    return {name: expand(layout) for name, layout in written.items()}


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Offline, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def pickled(tmp_path) -> bytes:
    """A file that writes `tmp_path`/ran when it is unpickled."""
    return pickle.dumps(Planted(tmp_path / "ran"), protocol=2)  # torch's own


@pytest.fixture
def link(tmp_path):
    """Make a folder of links to another's files, so that a test can replace one."""

    def link(folder: Path, without: tuple[str, ...] = ()) -> Path:
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in folder.iterdir():
            if file.name not in without:
                (copy / file.name).symlink_to(file)
        return copy

    return link


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from drift.menagerie.captions import build_tokenizer

    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def clip(tokenizer):
    """Two layers, widths 128 and 64 (two heads and one), images of 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"num_hidden_layers": 2, "hidden_act": "gelu"}
    vision = {"hidden_size": 128, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": 24}
    text |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            vision_config=vision | shape | {"intermediate_size": 96},
            text_config=text | shape | {"intermediate_size": 80},
            projection_dim=24,
        )
    )
    for parameter in model.parameters():  # as shipped, and far from the small default
        parameter.data = (3 * parameter).half().float()
    model.logit_scale.data.fill_(2.5)
    return model.eval()


@pytest.fixture(scope="session")
def transformers_folder(clip, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    save_transformers(clip, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def open_clip_folder(clip, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    save_open_clip(clip, tokenizer, folder)
    return folder

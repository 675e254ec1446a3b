import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from drift.encoders.clip import load
from drift.encoders.open_clip import infer
from drift.encoders.vit import VisionTransformer
from drift.errors import UserError
from drift.pixels import CLIP_MEAN, CLIP_STD
from tests.encoders.conftest import SPOILT


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision = {**tower, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    text = {**tower, "num_attention_heads": 2, "vocab_size": 10}
    CLIPModel(
        CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
    ).half().save_pretrained(tmp_path)
    return tmp_path


def test_features_are_those_of_the_whole_model(folder):
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = torch.rand(2, 3, 16, 16)
    shift, scale = (torch.tensor(rgb)[:, None, None] for rgb in (CLIP_MEAN, CLIP_STD))
    pixels = (images - shift) / scale
    ids = torch.tensor([[1, 2, 9]])
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels).image_embeds
    got = load(folder)(images)
    assert got.shape == (2, 12) and got.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(2))


def test_oblong_pictures_are_cropped_to_their_middle(folder):
    encoder = load(folder)
    wide = torch.rand(1, 3, 16, 40)
    torch.testing.assert_close(encoder.prepare(wide), encoder.prepare(wide[..., 12:28]))
    torch.testing.assert_close(
        encoder.prepare(wide.mT), encoder.prepare(wide[..., 12:28]).mT, atol=1e-5, rtol=1e-5
    )


def test_another_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="not the folder of a Hugging Face CLIPModel"):
        load(tmp_path)


def one_line(error) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("clip", "model.safetensors"),
        ("open_clip", "open_clip_model.safetensors"),
        ("open_clip-quick", "open_clip_pytorch_model.bin"),
    ],
)
def test_spoilt_weights_are_refused_in_one_line(golden, spoil, name, file, how):
    folder = golden(name)
    spoil(folder / file, how)
    with pytest.raises(UserError, match="^encoder: ") as error:
        load(folder)
    assert one_line(error)


def test_missing_weights_of_a_clip_model_are_named(golden):
    folder = golden("clip")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"], state["vision_model.post_layernorm.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="2 missing: .*post_layernorm.bias, .*projection") as error:
        load(folder)
    assert one_line(error)


def test_a_pytorch_file_serves_as_well(golden):
    folder, images = golden("clip"), torch.rand(2, 3, 40, 32)
    expected = load(folder)(images)
    state = load_file(folder / "model.safetensors")
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # in OpenAI's file
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load(folder)(images), expected)


@pytest.fixture
def open_clip_state(golden):
    """A folder, and the weights in it."""
    folder = golden("open_clip")
    return folder, load_file(folder / "open_clip_model.safetensors")


def test_the_gelu_and_the_colours_are_read_from_the_config(open_clip_state):
    folder, _ = open_clip_state
    images, expected = torch.rand(1, 3, 32, 32), load(folder)(torch.full((1, 3, 32, 32), 0.5))
    told = json.loads((folder / "open_clip_config.json").read_text())
    told["preprocess_cfg"] = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    assert torch.equal(load(folder).prepare(images), images)
    told["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    assert (load(folder)(torch.full((1, 3, 32, 32), 0.5)) - expected).abs().max() > 1e-3


def test_a_bare_file_and_one_with_a_state_dict_load(open_clip_state, tmp_path):
    folder, state = open_clip_state
    wide = VisionTransformer(
        image_size=16, patch_size=8, width=64, depth=1, heads=1, pre_norm=True, projection=12
    )
    assert infer(wide.state_dict())["heads"] == 1
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    (tmp_path / "open_clip_config.json").write_bytes(
        (folder / "open_clip_config.json").read_bytes()
    )
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "mine.pt")(images), load(folder)(images))


def test_misfits_of_an_open_clip_file_are_named(open_clip_state):
    folder, state = open_clip_state
    file = folder / "open_clip_model.safetensors"
    spoilt = {k: v for k, v in state.items() if ".1.ln_1" not in k} | {"visual.head": torch.ones(1)}
    save_file(spoilt, file)
    with pytest.raises(UserError, match="2 missing: blocks.1.norm1.bias.*1 unexpected: head"):
        load(folder)
    save_file({k: v for k, v in state.items() if not k.startswith("visual.")}, file)
    with pytest.raises(UserError, match="no open_clip checkpoint with a ViT"):
        load(folder)
    (folder / "open_clip_config.json").write_text("{")
    save_file(state, file)
    with pytest.raises(UserError, match="open_clip_config.json is not valid JSON"):
        load(folder)

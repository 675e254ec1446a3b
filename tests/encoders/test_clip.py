import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from drift.encoders.clip import MEAN, STD, load
from drift.errors import UserError


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
    shift, scale = (torch.tensor(rgb)[:, None, None] for rgb in (MEAN, STD))
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

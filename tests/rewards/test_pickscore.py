import json

import pytest
import torch

from drift.errors import UserError
from drift.rewards import pickscore
from drift.rewards.clip_score import CLIP_MEAN, CLIP_STD

PROMPTS = ["a fox", "a cat at night", "an ant", "a fox"]


@pytest.fixture(scope="module")
def reward(transformers_folder):
    return pickscore.load(transformers_folder)


def images(height: int = 32, width: int = 32, count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_the_score_is_the_models_own_logit(reward, clip, tokenizer):
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    pixels = pickscore.preprocess(images(), 32, CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        logits = clip(pixel_values=pixels, **tokens).logits_per_image
    scores = reward(images(), PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, logits.diagonal(), rtol=0, atol=1e-4)


def test_image_i_meets_prompt_i_in_every_batch(reward, transformers_folder):
    together = reward(images(), PROMPTS)
    one_by_one = [reward(images()[i : i + 1], [PROMPTS[i]])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.stack(one_by_one))
    small = pickscore.load(transformers_folder)
    small.batch_size = 3
    torch.testing.assert_close(small(images(), PROMPTS), together)
    assert list(small.text_features) == ["a fox", "a cat at night", "an ant"]
    assert len(together.unique()) == 4


def test_unequal_numbers_are_refused(reward):
    with pytest.raises(ValueError, match="4 images cannot be paired with 1 prompts"):
        reward(images(), ["a fox"])


def test_no_images_no_scores(reward):
    assert reward(images(count=0), []).shape == (0,)


def test_the_shortest_side_is_resized_and_the_centre_cut():
    wide = torch.zeros(1, 3, 16, 48)
    wide[..., 16:32] = 1  # the central square
    cut = pickscore.preprocess(wide, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.equal(cut, torch.ones(1, 3, 16, 16))
    tall = pickscore.preprocess(wide.transpose(2, 3), 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert tall.shape == (1, 3, 8, 8)
    torch.testing.assert_close(tall[..., 2:6, :], torch.full((1, 3, 4, 8), 2.0))


def test_an_image_of_the_right_size_is_only_normalised():
    torch.testing.assert_close(
        pickscore.preprocess(images(), 32, CLIP_MEAN, CLIP_STD)[:, 0],
        (images()[:, 0] - CLIP_MEAN[0]) / CLIP_STD[0],
    )


def test_mean_and_std_are_the_folders_own(reward, transformers_folder, tmp_path):
    for file in transformers_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]})
    )
    plain = pickscore.load(tmp_path)
    assert torch.equal(plain.preprocess(images()), images())


@pytest.mark.parametrize("content", (None, '{"model_type": "bert"}', "{"))
def test_another_folder_is_refused_in_one_line(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"^reward: [^\n]*config.json[^\n]*$"):
        pickscore.load(tmp_path)


def test_missing_weights_are_named(transformers_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(transformers_folder / name)
    with pytest.raises(UserError, match=r"^reward: cannot load [^\n]*$"):
        pickscore.load(tmp_path)
    weights = load_file(transformers_folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lack 'text_projection.weight'"):
        pickscore.load(tmp_path)

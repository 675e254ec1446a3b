import pytest
import torch

from drift.pixels import CLIP_MEAN, CLIP_STD, normalise
from drift.rewards import pickscore

PROMPTS = ["a fox", "a cat at night", "an ant", "a fox"]


@pytest.fixture(scope="module")
def reward(transformers_folder):
    return pickscore.load(transformers_folder)


def images(height: int = 32, width: int = 32, count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_the_score_is_the_models_own_logit(reward, clip, tokenizer):
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    pixels = normalise(images(), CLIP_MEAN, CLIP_STD)
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

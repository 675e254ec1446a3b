"""Every reward against its reference code, preprocessing and tokens included.

tests/golden/make_rewards.py wrote the small checkpoints and their scores; it says how.
"""

import json

import pytest
import torch

from drift.rewards import aesthetic, clip, hpsv2, imagereward, pickscore
from drift.rewards.clip_score import load_tokenizer

LOAD = {
    "pickscore": lambda golden: pickscore.load(golden / "clip"),
    "clip": lambda golden: clip.load(golden / "clip"),
    "aesthetic": lambda golden: aesthetic.load(golden / "aesthetic", golden / "clip"),
    "hpsv2.1": lambda golden: hpsv2.load_v21(golden / "hpsv2"),
    "imagereward": lambda golden: imagereward.load(golden / "imagereward"),
}


@pytest.fixture(autouse=True)
def one_thread():
    """A score near 22 has steps of 2e-6 in float32: how threads share a sum moves it by six.

    What an older processor lacks of vector instructions moves it by as much again.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "scores.json").read_text())


@pytest.mark.parametrize("name", LOAD)
def test_scores_are_the_references(name, golden, golden_images, expected):
    reward, prompts = LOAD[name](golden), iter(expected["prompts"])
    scores = torch.cat([reward(part, [next(prompts), next(prompts)]) for part in golden_images])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(expected[name]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", LOAD)
def test_batches_of_any_size_pair_image_i_with_prompt_i(name, golden, golden_images, expected):
    reward, prompts = LOAD[name](golden), expected["prompts"][:5]
    images = torch.cat([*golden_images[:1], *golden_images[:1], 1 - golden_images[0]])[:5]
    together = reward(images, prompts)
    one_by_one = [reward(images[i : i + 1], [prompts[i]]) for i in range(5)]
    # 100 cosines, in clip's scores: another batch shape rounds each of them by about 1e-7
    torch.testing.assert_close(together, torch.cat(one_by_one), rtol=1e-5, atol=1e-5)
    reward.batch_size = 2
    torch.testing.assert_close(reward(images, prompts), together, rtol=1e-5, atol=1e-5)
    assert reward(images[:0], []).shape == (0,)
    with pytest.raises(ValueError, match="5 images cannot be paired with 1 prompts"):
        reward(images, prompts[:1])


def test_tokens_are_open_clips(golden, expected):
    tokenizer = load_tokenizer(golden / "hpsv2")  # vocab.json and merges.txt, as first published
    cleaned = [hpsv2.clean(prompt) for prompt in expected["prompts"]]
    tokens = tokenizer(cleaned, truncation=True, max_length=77).input_ids
    assert tokens == expected["open_clip_tokens"]
    assert len(tokens[6]) == 77 and tokens[6][-1] == tokenizer.eos_token_id  # too long a prompt

from math import exp

import torch

from drift.rewards import clip, pickscore


def test_the_score_is_a_hundred_times_the_cosine_and_never_negative(golden, golden_images):
    score, same = clip.load(golden / "clip"), pickscore.load(golden / "clip")
    images, prompts = torch.cat([golden_images[0], 1 - golden_images[0]]), ["a fox", "an owl"] * 2
    cosine = same(images, prompts) / exp(2.5)  # the logit scale that the checkpoint holds
    assert cosine.min() > 0
    torch.testing.assert_close(score(images, prompts), 100 * cosine, rtol=0, atol=1e-4)
    score.model.visual_projection.weight.neg_()
    assert score(images, prompts).tolist() == [0.0] * 4

from dataclasses import replace

import numpy as np
import pytest
import torch

from drift.config import WorkerConfig
from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.scoring import embed, features_of, open_rewards, prompt_fields, score
from drift.types import Conditioned, Rollout, StepPlan, TextEmbeds

PROMPTS = ["a fox", "a cat"]


def images(P: int = 2, C: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(P, C, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_every_image_is_scored_under_its_own_prompt():
    rewards = score(
        lambda x, prompts: x.mean((1, 2, 3)) + torch.tensor([10.0 * ("cat" in p) for p in prompts]),
        images(),
        PROMPTS,
    )
    expected = images().mean((2, 3, 4)) + torch.tensor([[0.0], [10.0]])
    torch.testing.assert_close(rewards, expected)


class Rank:
    """Of the image's brightness in what is seen at once: tells which images came together."""

    per_group = True

    def __call__(self, images, prompts):
        self.seen = [*getattr(self, "seen", []), list(prompts)]
        return images.mean((1, 2, 3)).argsort().argsort().float()


def test_a_per_group_reward_sees_one_group_at_a_time():
    reward = Rank()
    rewards = score(reward, images(), ["a fox", "a fox"])  # equal prompts are two groups still
    assert reward.seen == [["a fox"] * 3] * 2
    assert rewards.sort(1).values.tolist() == [[0.0, 1.0, 2.0]] * 2


def full(room: int, judge):
    """A judge on a card with room for so many images."""

    def with_less(images, *prompts):
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return judge(images, *prompts)

    return with_less


def test_what_does_not_fit_into_memory_is_judged_in_halves():
    def brightness(x, prompts):
        return x.mean((1, 2, 3)) + 10.0 * torch.tensor([PROMPTS.index(p) for p in prompts])

    def encode(x):
        return x.flatten(1)

    whole = score(brightness, images(), PROMPTS)
    assert torch.equal(score(full(2, brightness), images(), PROMPTS), whole)
    assert torch.equal(score(brightness, images(), PROMPTS, batch_size=4), whole)
    assert torch.equal(
        embed(full(1, encode), images(), PROMPTS), embed(encode, images(), PROMPTS, batch_size=5)
    )
    with pytest.raises(UserError, match="sampling.scoring_batch_size: not even one row fits"):
        score(full(0, brightness), images(), PROMPTS)


def test_rewards_get_contiguous_images():
    turned = images().movedim(2, -1).contiguous().movedim(-1, 2)
    seen = []
    score(lambda x, prompts: seen.append(x) or x.mean((1, 2, 3)), turned, PROMPTS)
    assert not turned.is_contiguous() and seen[0].is_contiguous()


@pytest.mark.parametrize(
    "answer, told",
    [
        (torch.rand(5), "returned float32 of shape (5,) for 6 images, the first for 'a fox'"),
        (torch.rand(6, 1), "float32 of shape (6, 1)"),
        (torch.tensor(1.0), "float32 of shape ()"),
        (torch.zeros(6, dtype=torch.complex64), "complex64 of shape (6,)"),
        ([0.0] * 5, "float32 of shape (5,) for 6 images"),
        (["0.0"] * 6, "returned list for 6 images"),
        ([torch.zeros(1)] * 6, "returned list for 6 images"),
        ([torch.tensor(1j)] * 6, "returned list for 6 images"),
        (np.array(["a"] * 6), "returned ndarray for 6 images"),
        ([0.0, 1, 2, 3, 4, float("nan")], "of an image for 'a cat' is nan"),
        (None, "returned NoneType for 6 images"),
        (torch.tensor([1, 2, 3, 4, torch.nan, 6]), "of an image for 'a cat' is nan"),
        (torch.tensor([1, -torch.inf, 3, 4, 5, 6]), "of an image for 'a fox' is -inf"),
    ],
)
def test_wrong_scores_name_the_prompt(answer, told):
    with pytest.raises(UserError) as refusal:
        score(lambda x, prompts: answer, images(), PROMPTS)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "answer",
    [
        torch.arange(6),
        list(range(6)),
        tuple(float(k) for k in range(6)),
        np.arange(6.0),
        np.arange(6, dtype=np.float16),
        list(np.arange(6.0)),
        list(torch.arange(6)),
    ],
)
def test_scores_may_be_any_six_numbers(answer):
    rewards = score(lambda x, prompts: answer, images(), PROMPTS)
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_broken_images_reach_neither_reward_nor_encoder():
    def never(*arguments):
        raise AssertionError("was asked")

    broken = images()
    broken[1, 2, 0, 3, 3] = torch.nan
    for pictures, told in [
        (broken, "an image for 'a cat' has pixels that are NaN"),
        (images(side=1), "images of 1x1 pixels cannot be judged"),
        (images(side=3), "images of 3x3 pixels"),
    ]:
        with pytest.raises(UserError, match=told):
            score(never, pictures, PROMPTS)
        with pytest.raises(UserError, match=told):
            embed(never, pictures, PROMPTS)


def test_features_are_checked():
    def encoder(x):
        return x.flatten(1)[:, :4]

    features = embed(encoder, images(), PROMPTS)
    assert torch.equal(features, images().flatten(2)[..., :4])
    with pytest.raises(UserError, match="features of an image for 'a cat' are not finite"):
        embed(lambda x: encoder(x) / torch.tensor([1, 1, 1, 1, 0, 1])[:, None], images(), PROMPTS)
    with pytest.raises(UserError, match=r"the encoder returned \(5, 4\) for 6 images"):
        embed(lambda x: encoder(x)[:5], images(), PROMPTS)
    assert embed(None, images(), PROMPTS).shape == (2, 3, 0)


def test_the_policys_own_features_need_no_encoder():
    def never(images):
        raise AssertionError("was asked")

    own = torch.rand(2, 3, 5)
    steps, latents = torch.zeros(2, 3, 1), torch.zeros(2, 3, 2, 1, 1, 1)
    seeds, text = torch.zeros(2, 3, dtype=torch.long), TextEmbeds(torch.zeros(2, 1, 1))
    told, plan = Conditioned(text, text), StepPlan.untrained(2, 1, 1.0)
    kept = Rollout(PROMPTS, told, plan, seeds, steps, latents, images(), own)
    assert torch.equal(features_of(never, kept), own)
    without = replace(kept, features=None)
    seen = features_of(lambda x: x.flatten(1), without)
    assert torch.equal(seen, images().flatten(2))
    assert features_of(None, without).shape == (2, 3, 0)
    own[1, 2, 0] = torch.inf
    with pytest.raises(UserError, match="features of an image for 'a cat' are not finite"):
        features_of(None, kept)


def test_unknown_names_start_no_worker(monkeypatch):
    monkeypatch.setattr("drift.training.scoring.load_in_worker", None)
    with pytest.raises(UserError, match="there is no 'nonsense'"):
        open_rewards(["jpeg-compressibility", "nonsense"], WorkerConfig(timeout=5))


def test_looks_and_training_may_not_contradict_one_another(tmp_path):
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    ours.write_text('{"prompt": "a fox", "count": 2}\n{"prompt": "a cat"}\n')
    files = [f"prompts={ours}", f"evaluation.prompts={theirs}"]
    watched = load_recipe("smoke", [*files, "live.every=1"])

    theirs.write_text('{"prompt": "a bee", "count": 3}\n{"prompt": "a fox", "count": 2}\n')
    own = {"a fox": {"count": 2}, "a cat": {}}
    assert prompt_fields(watched) == own | {"a bee": {"count": 3}}
    assert prompt_fields(load_recipe("smoke", files)) == own  # an evaluation asks by itself

    theirs.write_text('{"prompt": "a fox", "count": 3}\n')
    with pytest.raises(UserError, match="^evaluation.prompts: .* other fields for 'a fox' than"):
        prompt_fields(watched)
    assert prompt_fields(load_recipe("smoke", files)) == own

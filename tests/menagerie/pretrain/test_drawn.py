"""What the model draws, and what it is worth by the probe's reading."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from drift.files.hub import SHIPPED
from drift.menagerie.animals import ANIMALS
from drift.menagerie.pretrain import drawn, reward_quality
from drift.menagerie.probe import load_probe, read
from drift.menagerie.taste import PICKSCORE, cleanness, utility
from drift.rewards import pickscore


@pytest.fixture(scope="module")
def some():
    """Two pictures of every animal, by one step and by two."""
    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED / "model", dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "AT_ONCE", 2)
        return drawn.draw(pipe, 2, seed=0, samplers=[(1, 0.0, 1.0), (2, 1.0, 2.0)])


def test_every_animal_is_drawn_as_often_and_kept_as_it_was(some, tmp_path):
    assert some.pictures.shape == (90, 64, 64, 3)
    assert (np.bincount(some.animal) == 2).all()
    some.save(tmp_path / "deep" / "some.npz")
    again = drawn.Drawn.load(tmp_path / "deep" / "some.npz")
    assert (again.pictures == some.pictures).all() and (again.animal == some.animal).all()


def test_gold_asks_for_the_animal_of_the_prompt(some):
    probe = load_probe(SHIPPED / "probe")
    images = torch.from_numpy(some.pictures[:8]).permute(0, 3, 1, 2) / 255
    wanted = torch.from_numpy(some.animal[:8])
    gold, seen = drawn.gold_of(PICKSCORE, probe, images, wanted)
    shown = read(probe, images).animal[torch.arange(8), wanted]
    torch.testing.assert_close(gold, utility(PICKSCORE, seen, shown, cleanness(images)))
    other, _ = drawn.gold_of(PICKSCORE, probe, images, (wanted + 7) % len(ANIMALS))
    certain = shown > 0.9
    assert (gold[certain] > other[certain] + 1).all()


def test_a_reward_that_is_gold_agrees_with_it(some, monkeypatch):
    probe, animal = load_probe(SHIPPED / "probe"), torch.from_numpy(some.animal)
    images = torch.from_numpy(some.pictures).permute(0, 3, 1, 2) / 255
    gold = drawn.gold_of(PICKSCORE, probe, images, animal)[0]
    monkeypatch.setattr(
        reward_quality, "score_all", lambda *_: 3 * gold[:, None].expand(-1, len(ANIMALS))
    )
    reward = pickscore.load(SHIPPED / "pickscore-tiny")
    told = reward_quality.drawn_quality(reward, PICKSCORE, probe, some)
    assert told["spearman"] == 1
    assert told["right_explains"] == told["right_explains_gold"]

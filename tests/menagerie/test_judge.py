"""Coverage, right animals and gold utility, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from drift.menagerie import judge as module
from drift.menagerie.animals import ANIMALS, FACINGS, STYLES
from drift.menagerie.judge import (
    FACINGS_OF,
    animal_of,
    effective_number,
    judge,
    measurable_coverage,
    possible_coverage,
    taste_name,
)
from drift.menagerie.probe import HEADS, Probe, Reading
from drift.menagerie.scenes import SCENES
from drift.menagerie.taste import PICKSCORE


def reading(rows):
    """A certain reading of (animal, style, scene, facing) by name; size and place as liked."""
    names = {"animal": ANIMALS, "style": STYLES, "scene": SCENES, "facing": FACINGS}
    columns = zip(*rows, strict=True)
    hot = {
        head: F.one_hot(torch.tensor([names[head].index(v) for v in column]), HEADS[head]).float()
        for head, column in zip(names, columns, strict=True)
    }
    N = len(rows)
    kind = torch.zeros(N, HEADS["kind"])
    x, y = (torch.full((N,), v) for v in PICKSCORE.place)
    return Reading(**hot, kind=kind, size=torch.full((N,), PICKSCORE.size), x=x, y=y)


def judged(monkeypatch, rows, prompts):
    """Figures of len(prompts) prompts whose pictures the probe reads as `rows`."""
    monkeypatch.setattr(module, "read", lambda probe, images: reading(rows))
    monkeypatch.setattr(module, "cleanness", lambda images: torch.ones(len(images)))
    P = len(prompts)
    return judge(torch.rand(P, len(rows) // P, 3, 64, 64), prompts, Probe())


def test_effective_number_by_hand():
    assert effective_number(torch.tensor([4, 4, 7, 7])) == pytest.approx(2)
    assert effective_number(torch.tensor([1, 2, 3, 4])) == pytest.approx(4)
    assert effective_number(torch.tensor([5, 5, 5])) == pytest.approx(1)
    # Shares 1/2, 1/4, 1/4: entropy 1.5 bits, so 2 to the power of 1.5.
    assert effective_number(torch.tensor([0, 0, 1, 2])) == pytest.approx(2**1.5)
    assert effective_number(torch.tensor([], dtype=torch.int64)) == 0


def test_only_right_animals_are_counted(monkeypatch):
    rows = [
        ("fox", "noto", "sea", "front"),
        ("fox", "noto", "sea", "front"),
        ("fox", "fluent", "sea", "front"),
        ("fox", "fluent", "snow", "front"),
        ("wolf", "twemoji", "night", "left"),  # a wrong animal in a mode of its own: worth nothing
    ]
    figures = judged(monkeypatch, rows, ["a fox"])
    assert figures["right_animal"].tolist() == pytest.approx([0.8])
    assert figures["coverage"].tolist() == pytest.approx([2**1.5])  # modes 2, 1, 1
    assert figures["styles"].tolist() == pytest.approx([2])  # 2, 2
    scenes = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))  # 3, 1
    assert figures["scenes"].tolist() == pytest.approx([scenes])


def test_no_right_animal_covers_nothing(monkeypatch):
    figures = judged(monkeypatch, [("cat", "noto", "sea", "left")] * 3, ["a dog"])
    for name in ("right_animal", "coverage", "styles", "scenes"):
        assert figures[name].tolist() == [0]


def test_gold_utility_is_the_best_of_a_perfect_picture(monkeypatch):
    rows = [("fox", "noto", "sunset", "front"), ("cat", "noto", "sunset", "left")]
    figures = judged(monkeypatch, rows, ["a fox"])
    mean = PICKSCORE.best - PICKSCORE.weight_animal / 2  # the second one misses the animal
    assert figures["gold/pickscore"].tolist() == pytest.approx([mean])


def test_each_prompt_is_judged_by_its_own_animal(monkeypatch):
    rows = [("cat", "noto", "sea", "left"), ("cat", "noto", "sea", "right")] * 2
    figures = judged(monkeypatch, rows, ["a cat", "a dog"])
    assert figures["right_animal"].tolist() == [1, 0]
    assert figures["coverage"].tolist() == pytest.approx([2, 0])


def test_a_prompt_without_one_animal_of_ours_has_no_figure(monkeypatch):
    rows = [("cat", "noto", "sea", "left")] * 4
    figures = judged(monkeypatch, rows, ["a cat", "a house"])
    for name, values in figures.items():
        assert values.isnan().tolist() == [False, True], name


def test_animals_are_found_by_whole_words():
    assert animal_of("a small black Cat facing left, noto style") == "cat"
    assert animal_of("a cat beside a cat") == "cat"
    for prompt in ("", "a caterpillar", "a cat and a dog", "<b>house</b>"):
        assert animal_of(prompt) is None


def test_most_coverage_possible():
    # PICKSCORE likes noto and fluent and three scenes equally.
    assert possible_coverage("horse", PICKSCORE) == 2 * 2 * 3  # left and right
    assert possible_coverage("fox", PICKSCORE) == 2 * 1 * 3  # drawn from the front only
    assert possible_coverage("cat", PICKSCORE) == 2 * 3 * 3  # bodies from the side, faces
    assert possible_coverage("spider", PICKSCORE) == (2 + 1) * 3
    assert set(FACINGS_OF) <= set(ANIMALS)


def test_few_pictures_show_less_than_there_is():
    assert measurable_coverage(1, 16) == 1
    # 2 pictures of 2 modes: half the time both the same (1), half the time not (2).
    assert measurable_coverage(2, 2) == pytest.approx(1.5, abs=0.06)
    assert measurable_coverage(12, 16) < 10
    assert measurable_coverage(12, 2000) == pytest.approx(12, abs=0.1)


def test_taste_of_a_reward():
    assert taste_name("pickscore-tiny") == "pickscore"
    assert taste_name("hpsv2-tiny:some/folder") == "hpsv2"
    assert taste_name("pickscore") is None  # the published one has no known taste
    assert taste_name("mine") is None


def test_a_real_probe_reads_real_pixels():
    torch.manual_seed(0)
    figures = judge(torch.rand(2, 3, 3, 64, 64), ["a cat", "an ant"], Probe().eval())
    assert all(values.shape == (2,) and values.isfinite().all() for values in figures.values())

import numpy as np
import pytest

from drift.menagerie.animals import ANIMALS, VARIANTS
from drift.menagerie.captions import (
    MAX_TOKENS,
    SCENE_PHRASES,
    build_tokenizer,
    caption,
    learn_merges,
    simple_prompt,
    vocabulary_text,
)
from drift.menagerie.pictures import Attributes
from drift.menagerie.scenes import SCENES


def one(animal: str, variant: str, *, scene="snow", style=2, facing=0, size=0.5, x=0.3):
    """The attributes of a single picture."""
    row = (
        ANIMALS.index(animal),
        style,
        list(VARIANTS[animal]).index(variant),
        SCENES.index(scene),
        facing,
        size,
        x,
        0.6,
    )
    return Attributes(*(np.array([value]) for value in row))


class Always(np.random.Generator):
    """Says everything (0) or nothing (1)."""

    def __init__(self, value: float):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, count=None):
        return self.value if count is None else np.full(count, self.value)


def test_a_caption_that_says_everything():
    truth = one("cat", "black")
    assert (
        caption(truth, 0, Always(0.0))
        == "a small black cat facing left in the snow on the left, twemoji style"
    )


def test_a_caption_that_says_nothing_names_the_animal():
    assert caption(one("ant", "body"), 0, Always(1.0)) == "an ant"
    assert simple_prompt("ant") == "an ant"
    assert simple_prompt("bee") == "a bee"


def test_what_has_no_name_is_not_said():
    middling = one("fox", "face", facing=2, size=0.7, x=0.5, style=0)
    assert caption(middling, 0, Always(0.0)) == "a fox in the snow, noto style"


def test_about_half_of_the_captions_name_the_scene():
    truth, rng = one("fox", "face"), np.random.default_rng(0)
    named = sum("snow" in caption(truth, 0, rng) for _ in range(400))
    assert 160 < named < 240


def test_the_world_has_45_animals_and_8_scenes():
    assert len(ANIMALS) == 45
    assert set(SCENE_PHRASES) == set(SCENES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_is_one_token(tokenizer):
    for word in vocabulary_text():
        assert tokenizer.tokenize(word) == [word + "</w>"]


def test_merges_by_hand():
    # "ab" twice, then "ab"+"c</w>"; ("a", "b</w>") of the word "ab" is another pair
    assert learn_merges(["abc", "abd", "ab"]) == [
        ("a", "b"),
        ("ab", "d</w>"),
        ("ab", "c</w>"),
        ("a", "b</w>"),
    ]


def test_any_text_can_be_written(tokenizer):
    ids = tokenizer("a unicorn, déjà vu 日本 <b>").input_ids
    assert tokenizer.unk_token_id is None or ids.count(tokenizer.unk_token_id) <= 1
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_the_longest_caption_fits(tokenizer):
    truth = one("camel", "bactrian", facing=1, x=0.7)
    words = caption(truth, 0, Always(0.0))
    assert len(tokenizer(words).input_ids) <= MAX_TOKENS

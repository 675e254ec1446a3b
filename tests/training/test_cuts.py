"""On the tiny model, whose text encoder takes 24 tokens: a start, 22 of the prompt, and an end."""

import pytest
import torch

from drift.models import load_model
from drift.training.cuts import cut_prompts

FULL = "a fox " * 11  # 22 words, a token each


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model))


def test_what_fits_is_not_told(model):
    assert cut_prompts(model, ["a fox", FULL, "a cat"]) == []


def test_how_many_are_cut_and_what_the_first_loses(model):
    (line,) = cut_prompts(model, ["a fox", "a cat " + FULL, FULL + "at night by the sea"])
    assert line == (
        f"prompts: the text encoder cuts 2 of 3 at 24 tokens; the first, 'a cat {FULL}', loses 2; "
    ).removesuffix("; ")


def test_those_that_are_then_the_same_are_named_by_their_ends_too(model):
    prompts = [FULL + "in a forest", "a cat", FULL + "in the desert", FULL]
    (line,) = cut_prompts(model, prompts)
    start = "a fox " * 6
    assert line == (
        "prompts: the text encoder cuts 2 of 4 at 24 tokens; the first, "
        f"'{start}…{prompts[0][-36:]}', loses 3; "
        f"'{start}…{prompts[0][-36:]}' and '{start}…{prompts[2][-36:]}' are the same to the text "
        "encoder (1 more are like an earlier one)"
    )


def test_writing_that_makes_no_difference_is_told(model):
    told = "prompts: 'a fox' and 'A  Fox' are the same to the text encoder"
    assert cut_prompts(model, ["a fox", "a cat", "A  Fox"]) == [told]


def test_the_model_sees_what_is_told(model):
    one, two = FULL + "in a forest", FULL + "in the desert"
    seen = model.see([one, two, "a fox"])
    assert [(len(each.tokens), each.lost) for each in seen] == [(24, 3), (24, 3), (4, 0)]
    tokens = model.encode([one, two, FULL, "a fox"]).prompt.tokens
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.equal(tokens[0], tokens[3])

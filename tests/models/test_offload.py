"""Frozen parts off the device: the same pictures, moved when they are asked and no oftener."""

import pytest
import torch

import drift.models.base
from drift.methods.parts import CleanPrompt
from drift.models import load_model
from drift.models.base import offloads
from drift.training.rollout import rollout
from drift.types import StepPlan
from tests.models.families import BUILD

PROMPTS = ["a fox", "a bee"]


def drawn(model, prompts=PROMPTS):
    return rollout(
        model,
        prompts,
        [[3, 12]] * len(prompts),
        StepPlan.untrained(len(prompts), 3, 0.5),
        guidance_scale=3.0,
        batch_size=4,
        conditioning=CleanPrompt(),
        decode_batch_size=2,
    )


def counted(model):
    """The moves of each frozen part and the texts that its encoders were shown, as they happen."""
    moves, shown = [], []
    for name, part in model.pipe.components.items():
        if isinstance(part, torch.nn.Module) and part is not model.network:

            def moving(*to, name=name, move=part.to):
                moves.append((name, str(to[0])))
                return move(*to)

            part.to = moving
            if name.startswith("text"):
                part.register_forward_hook(lambda *call, name=name: shown.append(name))
    return moves, shown


@pytest.mark.parametrize("family", BUILD)
def test_parts_are_there_when_they_are_asked_and_pictures_are_the_same(families, family):
    """Moved here from the processor to the processor."""
    whole, away = (load_model(str(families[family]), offload=True) for _ in range(2))
    assert not whole.offloaded
    moves, shown = counted(away)
    away.offloaded = True
    one, two = drawn(whole), drawn(away)
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.log_probs, two.log_probs)
    texts = sorted(set(shown))
    assert len(texts) == 2
    # There and back for the prompts, and for the negative one; each text once, by each encoder.
    assert moves[:8] == 2 * [(name, "cpu") for name in (*texts, *texts)]
    assert len(shown) == 3 * 2
    assert moves[8:] == [("vae", "cpu")] * 4  # two batches of pictures
    before = len(moves)
    assert torch.equal(drawn(away).images, two.images)
    assert len(shown) == 3 * 2
    assert moves[before:] == [("vae", "cpu")] * 4


@pytest.mark.parametrize("family", BUILD)
def test_a_text_is_told_the_same_in_any_company(families, family):
    alone = load_model(str(families[family])).encode(["a fox"])
    model = load_model(str(families[family]))
    both = model.encode(["a bee", "a fox", "a fox"])
    for told in (both[1:2], both[2:3], model.encode(["a fox"])):
        assert torch.equal(told.prompt.tokens, alone.prompt.tokens)
        assert torch.equal(told.prompt.extra["pooled"], alone.prompt.extra["pooled"])
        assert told.prompt.blocks == alone.prompt.blocks


def test_only_so_much_is_remembered_of_texts(families, monkeypatch):
    model = load_model(str(families["sdxl"]))
    row = model.encode(["a fox"]).prompt
    size = 4 * (row.tokens.numel() + row.extra["pooled"].numel())
    monkeypatch.setattr(drift.models.base, "REMEMBERED", 2 * size)
    told = model.encode([f"a {animal}" for animal in ("bee", "cat", "dog")])
    assert len(told.prompt) == 3
    assert len(model.known) == 2
    assert torch.equal(model.encode(["a cat"]).prompt.tokens, told.prompt.tokens[1:2])


@pytest.mark.parametrize(
    ("wanted", "device", "free", "expected"),
    [
        (True, "cuda", 1000, True),
        (False, "cuda", 1, False),
        ("auto", "cuda", 199, True),
        ("auto", "cuda", 200, False),
        (True, "cpu", 1, False),
        ("auto", "cpu", 1, False),
    ],
)
def test_auto_offloads_a_model_that_would_take_half_the_card(
    monkeypatch, wanted, device, free, expected
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**6))
    assert offloads(wanted, torch.device(device), 100) == expected

"""A tenth of a percent of `tests/torture` at each `make test`: DRIFT_TORTURE is cases of a kind."""

import os
import random

import pytest

from drift.models import find_model
from tests.torture.inputs import KINDS, OVERRIDES, try_case, try_many
from tests.torture.mutations import mutate

CASES = int(os.environ.get("DRIFT_TORTURE", "40"))


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path, monkeypatch):
    """Nothing is fetched, and no cache or home is touched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def import_models():
    """What looking for a hub's model imports, for seconds, wherever it is asked first."""
    find_model("owner/repository")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_typed_is_a_value_or_one_line_and_soon(kind, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    import_models()
    try_case(kind, 0, folder)  # imports are nobody's time
    tally = try_many(kind, range(CASES), folder)
    assert tally.tried == CASES
    assert tally.wrong == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


def test_a_case_is_the_same_for_the_same_seed_and_most_are_damage():
    made = [mutate(random.Random(seed), OVERRIDES) for seed in range(200)]
    assert made == [mutate(random.Random(seed), OVERRIDES) for seed in range(200)]
    assert len(set(made) - set(OVERRIDES)) > 150


def test_what_is_wrong_is_seen(tmp_path, monkeypatch):
    def fails(draw, folder):
        raise KeyError("x")

    def writes(draw, folder):
        (folder / "left").touch()

    monkeypatch.setitem(KINDS, "fails", fails)
    monkeypatch.setitem(KINDS, "writes", writes)
    monkeypatch.setitem(KINDS, "prints", lambda *_: print("a\nb"))
    assert "KeyError: 'x'" in try_case("fails", 0, tmp_path)[1]
    assert try_case("writes", 0, tmp_path) == (True, "wrote ['left']")
    assert try_case("prints", 0, tmp_path) == (True, "2 lines: a")

"""docs/checkpoints.md tells of every checkpoint what the code knows."""

from pathlib import Path

import pytest

from drift.encoders import ENCODERS
from drift.files.hub import SHIPPED, Weights, is_url
from drift.models import PUBLISHED, model_weights
from drift.rewards import REWARDS

PAGE = Path(__file__).parents[1] / "docs" / "checkpoints.md"
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
PARTS = [*REWARDS.items(), *ENCODERS.items()]
KNOWN = {
    *(model_weights(name) for name in [*PUBLISHED, "menagerie/model"]),
    *(weights for _, part in PARTS for weights in part.weights),
    *(fallback.weights for _, part in PARTS for fallback in part.fallbacks),
}


def rows_of(weights: Weights) -> list[str]:
    """Rows that tell origin, all files, size and licence."""
    origin = f"({weights.repo})" if is_url(weights.repo) else weights.repo
    told = [origin, weights.size, weights.licence, *(f"`{name}`" for name in weights.files)]
    return [row for row in ROWS if all(word in row for word in told)]


@pytest.mark.parametrize("weights", sorted(KNOWN, key=str), ids=lambda weights: weights.repo)
def test_origin_files_size_and_licence_of_all_weights(weights):
    assert rows_of(weights)


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_reward_and_encoder_stands_beside_its_weights(name, part):
    named = {row for row in ROWS if f"`{name}`" in row.split("|")[1]}
    assert named
    published = not name.endswith("-tiny")  # what is shipped is whole
    fallbacks = [fallback.weights for fallback in part.fallbacks if published]
    assert all(named & set(rows_of(weights)) for weights in [*part.weights, *fallbacks])


def test_bytes_of_what_is_shipped():
    for folder in SHIPPED.iterdir():
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        rows = [row for row in ROWS if f"`menagerie/{folder.name}`" in row]
        assert all(f"{size:,} bytes" in row for row in rows)
        assert rows or folder.name == "probe"  # which is no checkpoint to choose


def test_no_reward_or_encoder_is_told_of_that_is_not_there():
    first = [row.split("|")[1] for row in ROWS if "**" not in row]
    told = {name for cell in first for name in cell.split("`")[1::2]}
    assert told == {name for name, _ in PARTS}

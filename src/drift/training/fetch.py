"""`drift fetch`: bring here, beforehand, all weights that a recipe's run and evaluation need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from drift.config import TrainConfig
from drift.errors import UserError
from drift.training.needs import Need, list_needs


def fetch(config: TrainConfig, *, dry_run: bool = False, say: Callable[[str], None] = print) -> int:
    """Tell what is needed, fetch what is not here, tell where all of it lies.

    One that fails does not stop the others. Returns how many failed. With `dry_run` nothing is
    fetched, so nothing fails.
    """
    needs = list_needs(config, evaluation=True)
    width = max(len(need.role) for need in needs)
    for need in needs:
        say(f"{need.role:{width}}  {_describe(need)}")
    if dry_run:
        return 0
    places: dict[Need, Path | UserError] = {}
    while pending := [need for need in needs if need not in places]:
        places |= {need: _bring(need) for need in pending}
        needs = list_needs(config, evaluation=True)  # a folder may have come without a fallback's
    say("")
    for need, place in places.items():
        failed = "FAILED  " if isinstance(place, UserError) else ""
        say(f"{need.role:{width}}  {failed}{place}")
    return sum(isinstance(place, UserError) for place in places.values())


def _describe(need: Need) -> str:
    """Whether it is here, and then its true size; else what is known beforehand."""
    path = need.find()
    if path is None:
        return f"missing  {need.weights}"
    size = sum(file.stat().st_size for file in need.files(path).values())
    return f"here     {replace(need.weights, size=f'{size / 1e6:,.1f} MB')}"


def _bring(need: Need) -> Path | UserError:
    try:
        return need.find() or need.locate()
    except UserError as error:
        return error

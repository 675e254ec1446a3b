"""The diversity of anybody's pictures in folders, whatever drew them: `drift measure`.

The figures and their names are those of an evaluation (`measures`), but prompts may have different
numbers of pictures, and pictures different sizes.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from drift.encoders import load_encoder
from drift.errors import UserError
from drift.evaluation.measures import NEIGHBOURS, directions, summarise, whole
from drift.evaluation.pictures import find_sets, read_picture
from drift.files.writing import told, write_text
from drift.functional.coverage import covered
from drift.functional.diversity import mean_pairwise_distance, vendi_score
from drift.training.policy import pick_device
from drift.training.scoring import AT_ONCE, embed
from drift.types import ImageEncoder

PIXELS = AT_ONCE * 512**2  # in a batch at most: photographs are large
OUT = "measure: --out"
ByPrompt = dict[str, Float[Tensor, "_ _"]]  # features "N D" of each prompt's N pictures


@dataclass(frozen=True)
class Measured:
    """What is known of one folder."""

    folder: str
    pictures: dict[str, int]  # of each prompt
    figures: dict[str, dict[str, Any]]  # as in metrics.json
    notes: list[str]  # why a figure is missing


def measure_folders(
    folders: Sequence[Path],
    encoders: Sequence[str],
    reference: Path | None = None,
    device: str = "auto",
) -> list[Measured]:
    """Measure each folder of pictures, against those of `reference` if given.

    All folders and encoders are opened before the first picture is encoded. `device`: auto, cpu,
    cuda, ...
    """
    found = {p: find_sets(p) for p in (*folders, *([reference] if reference else []))}
    device = str(pick_device(device))
    judges = {name: load_encoder(name, device) for name in dict.fromkeys(encoders)}
    features = {p: _encode(sets, judges) for p, sets in found.items()}
    measured = []
    for p in folders:
        figures = {}
        for name in judges:
            figures |= _figures(name, features[p][name])
            if reference:
                figures |= _against(name, features[p][name], features[reference][name])
        counts = {prompt: len(files) for prompt, files in found[p].items()}
        notes = _notes(counts, found[reference] if reference else None)
        measured.append(Measured(str(p), counts, figures, notes))
    return measured


def check_out(out: Path) -> None:
    """Refuse a file that is there already, or cannot be written, before anything is measured."""
    if os.path.lexists(out):
        raise UserError(f"measure: --out {out} exists already; name another")
    try:
        with told(out, field=OUT):
            out.open("x").close()
            out.unlink()
    except ValueError as error:  # no name of a file
        raise UserError(f"{OUT}: cannot write {out}: {error}") from error


def write_measured(measured: Sequence[Measured], reference: Path | None, out: Path) -> None:
    """All figures as JSON, with those of every prompt."""
    content = {"reference": reference and str(reference), "neighbours": NEIGHBOURS}
    content["folders"] = [asdict(one) for one in measured]
    write_text(out, json.dumps(content, indent=1) + "\n", field=OUT)


def _encode(sets: dict[str, list[Path]], judges: dict[str, ImageEncoder]) -> dict[str, ByPrompt]:
    """Features of every picture, by encoder and prompt."""
    rows: dict[str, dict[str, list]] = {n: {prompt: [] for prompt in sets} for n in judges}
    todo = [(prompt, file) for prompt, files in sets.items() for file in files]
    with tqdm(total=len(todo), unit="picture", disable=None, leave=False) as bar:
        for at, images in _batches([file for _, file in todo]):
            files = [str(file) for _, file in todo[at : at + len(images)]]
            for name, encoder in judges.items():
                features = embed(encoder, images[:, None], files).cpu()
                for (prompt, file), row in zip(todo[at:], features, strict=False):
                    rows[name][prompt].append(directions(row[None], str(file))[0, 0])
            bar.update(len(images))
    return {
        n: {p: torch.stack(_alike(n, some)) for p, some in by.items()} for n, by in rows.items()
    }


def _batches(files: Sequence[Path]) -> Iterator[tuple[int, Float[Tensor, "N 3 H W"]]]:
    """(Number of the first, pictures) of as many files in a row as are of one size and fit."""
    start, waiting = 0, list[Tensor]()
    for k, file in enumerate(files):
        picture = read_picture(file)
        most = min(AT_ONCE, PIXELS // picture[0].numel())
        if waiting and (picture.shape != waiting[0].shape or len(waiting) >= most):
            yield start, torch.stack(waiting)
            start, waiting = k, []
        waiting.append(picture)
    yield start, torch.stack(waiting)


def _alike(name: str, rows: list[Float[Tensor, "_"]]) -> list[Float[Tensor, "_"]]:
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"measure: encoder {name} compares only pictures of one size")
    return rows


def _figures(name: str, features: ByPrompt) -> dict[str, Any]:
    """Those of the pictures alone."""
    _alike(name, [E[0] for E in features.values()])
    distances = [
        mean_pairwise_distance(E[None]).item() if len(E) > 1 else torch.nan
        for E in features.values()
    ]
    vendi = [vendi_score(E) if len(E) > 1 else 1.0 for E in features.values()]
    return {
        f"diversity/{name}": summarise(torch.tensor(distances, dtype=torch.float64)),
        f"vendi/{name}": summarise(torch.tensor(vendi, dtype=torch.float64)),
        f"vendi_all/{name}": whole(vendi_score(torch.cat(list(features.values())))),
    }


def _against(name: str, ours: ByPrompt, reference: ByPrompt) -> dict[str, Any]:
    """Recall of the reference's pictures by ours, by the reference's prompts; and precision.

    Balls of all prompts' pictures together; no value where these are too few for 10 neighbours.
    """
    _alike(name, [E[0] for E in (*ours.values(), *reference.values())])
    figures = {}
    for kind, points, centres in (("recall", reference, ours), ("precision", ours, reference)):
        balls = torch.cat(list(centres.values()))
        shares = torch.full((len(points),), torch.nan, dtype=torch.float64)
        if len(balls) > NEIGHBOURS:
            inside = (covered(E, balls, NEIGHBOURS) for E in points.values())
            shares = torch.stack([some.double().mean() for some in inside])
        figures[f"{kind}/{name}"] = summarise(shares)
    return figures


def _notes(counts: dict[str, int], reference: dict[str, list[Path]] | None) -> list[str]:
    """Why figures are missing, or stand for fewer prompts."""
    alone, total, notes = sum(n == 1 for n in counts.values()), sum(counts.values()), []
    if alone:
        notes.append(f"no distance in {alone} of {len(counts)} sets, which hold 1 picture each")
    if reference and total <= NEIGHBOURS:
        notes.append(f"no recall: it needs {NEIGHBOURS + 1} pictures, and here are {total}")
    others = sum(map(len, reference.values())) if reference else NEIGHBOURS + 1
    if others <= NEIGHBOURS:
        notes.append(f"no precision: it needs {NEIGHBOURS + 1} of the reference, not {others}")
    if len(counts) == 1:
        notes.append("no intervals: they are over prompts, and this is one set")
    return notes

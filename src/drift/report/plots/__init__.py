"""Figures for print: frontiers, gains, contours of embeddings, image grids (DRIFT, Figures 1-11).

Importing this room needs matplotlib (extra `figures`), so import it where a figure is wanted.
"""

from pathlib import Path

from drift.errors import UserError

try:
    import matplotlib as matplotlib
except ModuleNotFoundError as error:
    raise UserError(
        "figures: matplotlib is not installed; do `pip install 'drift-rft[figures]'`"
    ) from error

from drift.report.comparison import Comparison
from drift.report.plots import bars, contours, frontiers, grids
from drift.report.plots.style import in_our_style, saved

VECTOR = ("svg", "pdf")
PICTURES = (*VECTOR, "webp")  # of what is pixels within SVG too
FIGURES = {  # name of the files -> what draws them, and their formats
    "frontiers": (frontiers.frontiers, VECTOR),
    "gains": (bars.gain_bars, VECTOR),
    "contours": (contours.contours, PICTURES),
    "grids": (grids.grids, PICTURES),
    "watch": (grids.watch, PICTURES),
}


def draw(found: Comparison, out: Path) -> list[Path]:
    """Write `out/figures/NAME.svg` and the like; returns the files.

    Features and pictures are read from the run folders. The same input gives the same bytes.
    Without gains, no figure of them.
    """
    folder, written = out / "figures", []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure_of, formats) in FIGURES.items():
        with in_our_style():
            figure = figure_of(found)
            if figure is not None:
                written += [saved(figure, folder / f"{name}.{kind}") for kind in formats]
    return written

"""Image grids from identical prompts and seeds (DRIFT, Figures 1, 5, 7 and 11)."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from drift.evaluation.sheets import GAP, block, spread_out
from drift.report.comparison import Comparison
from drift.report.plots.style import BASE, INK, SOFT, WIDTH, look, plain

ROWS, STEPS = 4, 6  # prompts of `grids`; steps of `watch`
TILES = (96, 80, 64, 60)  # pixels of a picture: the largest whose sheet is within the budget
BUDGET = 265_000  # bytes of the sheet as PNG, which is what a PDF holds
INCHES = 0.62  # of a picture on paper, at most
Cell = UInt8[np.ndarray, "N H W 3"]  # drawn as 2×2


@dataclass(frozen=True)
class Sheet:
    """All cells in one image on white, a line's room above each row; lengths in pixels."""

    image: Image.Image
    across: int  # from one column to the next
    down: int  # from one row to the next
    line: int


def _sheet(cells: Sequence[Sequence[Cell]], tile: int) -> Sheet:
    line, side = round(0.42 * tile), 2 * tile + GAP
    across, down = side + round(0.25 * tile), side + line + round(0.1 * tile)
    columns = max(map(len, cells))
    image = Image.new("RGB", ((columns - 1) * across + side, line + len(cells) * down), "white")
    for r, row in enumerate(cells):
        for c, pictures in enumerate(row):
            four = block(pictures, 2, tile)
            image.paste(four, (c * across, line + r * down + line), mask=four)
    # Six bits a colour, which no eye tells from eight, take two thirds of the bytes.
    rounded = image.point([min(255, (value + 2) // 4 * 4) for value in range(256)] * 3)
    return Sheet(rounded, across, down, line)


def _fitting(cells: Sequence[Sequence[Cell]]) -> tuple[Sheet, int]:
    """The sheet, and its tile: the largest within the budget, and no larger than the pictures."""
    H, W = cells[0][0].shape[1:3]
    tiles = [tile for tile in TILES if tile <= max(H, W)] or [TILES[-1]]
    for tile in tiles:
        sheet, buffer = _sheet(cells, tile), io.BytesIO()
        sheet.image.save(buffer, "PNG")
        if buffer.tell() <= BUDGET:
            return sheet, tile
    return _sheet(cells, tiles[-1]), tiles[-1]


def _drawn(
    cells: Sequence[Sequence[Cell]],
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    note: str,
) -> Figure:
    """The sheet as one image, with the columns' and rows' names (text, colour) as text."""
    sheet, tile = _fitting(cells)
    W, H, line = sheet.image.width, sheet.image.height, sheet.line
    scale = min(INCHES / tile, WIDTH / W)
    note = textwrap.fill(note, int(19 * W * scale))
    foot = (0.14 + 0.12 * len(note.splitlines())) / scale
    figure = Figure(figsize=(W * scale, (H + foot) * scale))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(sheet.image, interpolation="none", aspect="auto", extent=(0, W, H, 0))
    ax.set(xlim=(0, W), ylim=(H + foot, 0))
    ax.set_axis_off()
    for c, (text, colour) in enumerate(columns):
        name = plain(text, int(11 * sheet.across * scale))
        ax.text(c * sheet.across, line / 2, name, color=colour, va="center", weight="bold")
    for r, (text, colour) in enumerate(rows):
        name = plain(text, int(14 * W * scale))
        ax.text(0, line + r * sheet.down + 0.55 * line, name, color=colour, va="center", size=8)
    ax.text(0, H + foot / 2, note, color=SOFT, va="center", size=7)
    return figure


def grids(compared: Comparison) -> Figure:
    """Some prompts, evenly apart in their list, under the base model and every arm's last step."""
    models = [compared.base.pictures(0)]
    models += [arm.runs[0].pictures(arm.last) for arm in compared.arms]
    places = spread_out(len(compared.prompts), ROWS)
    columns = [("Base model", BASE)]
    columns += [(arm.label, look(k).colour) for k, arm in enumerate(compared.arms)]
    return _drawn(
        [[pictures[p, :4] for pictures in models] for p in places],
        columns,
        [(compared.prompts[p], INK) for p in places],
        "Same prompts and seeds in all columns; last checkpoint of each arm's first training seed.",
    )


def watch(compared: Comparison) -> Figure:
    """One prompt over training: a row for each arm, a column for each of some common steps."""
    common = sorted(set.intersection(*(set(arm.steps) for arm in compared.arms)))
    steps = [common[k] for k in spread_out(len(common), STEPS)]
    middle = (len(compared.prompts) - 1) // 2  # of the list, whatever it looks like
    return _drawn(
        [[arm.runs[0].pictures(s)[middle, :4] for s in steps] for arm in compared.arms],
        [(f"epoch {step}" if step else "Base model", INK if step else BASE) for step in steps],
        [(arm.label, look(k).colour) for k, arm in enumerate(compared.arms)],
        f"“{plain(compared.prompts[middle], 60)}”, the same seeds in all cells; "
        "steps that every arm has, first training seed.",
    )

"""Film strips: what a model drew for a prompt at every evaluated step, one WebP for each.

The page moves a strip behind a window as its slider moves. Tile, quality and, last of all, the
number of prompts are chosen so that all strips together fit into the page.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from drift.evaluation.sheets import spread_out, webp, within
from drift.report.arms import Compared

COLUMNS, PICTURES = 4, 8  # of one model under one prompt
MOST_STEPS = 60  # of a run; twice as many of the largest tiles would pass WebP's 16,383 pixels
# (tile in pixels, WebP quality), best first. Below a quality of about 40 a smaller tile shows more
# in as many bytes (SSIM on the Menagerie's pictures), until tiles can become no smaller. Multiples
# of WebP's own blocks of 16 pixels: others bleed into their neighbours.
SIZES = (
    *((128, 85), (128, 70), (128, 50), (96, 70), (96, 50), (64, 85), (64, 70), (64, 55), (64, 40)),
    *((48, 60), (48, 50), (48, 40), (32, 65), (32, 55), (32, 50), (32, 45), (32, 35)),
)
SMALLEST = 32
LEAST_BYTES = 0.04  # a pixel costs at least this at quality 40 and more
SAMPLE = 48  # strips that stand for all while a size is tried

Frames = UInt8[np.ndarray, "K n H W 3"]  # K steps, n pictures


def shown_steps(run: Compared) -> list[int]:
    """The evaluated steps whose pictures the page has; the base model's are shared by all runs."""
    steps = [step for step in run.evaluations if step]
    return [steps[k] for k in spread_out(len(steps), MOST_STEPS)]


def fit(images: UInt8[np.ndarray, "*N H W 3"], tile: int) -> UInt8[np.ndarray, "*N t t 3"]:
    """Every picture in a square of `tile` pixels, on grey where it is none itself."""
    *N, H, W, _ = images.shape
    if H == W == tile:
        return images
    squares = np.full((images[..., 0, 0, 0].size, tile, tile, 3), 128, np.uint8)
    for square, pixels in zip(squares, images.reshape(-1, H, W, 3), strict=True):
        picture, (left, top) = within(Image.fromarray(pixels), tile)
        square[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return squares.reshape(*N, tile, tile, 3)


def strip(frames: Frames, tile: int, quality: int) -> bytes:
    """For each step a block of pictures, `COLUMNS` in a row and without gaps, as WebP."""
    K, n = frames.shape[:2]
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    cells = np.full((K, rows * columns, tile, tile, 3), 128, np.uint8)
    cells[:, :n] = fit(frames, tile)
    sheet = cells.reshape(K, rows, columns, tile, tile, 3).swapaxes(2, 3)
    return webp(Image.fromarray(sheet.reshape(K * rows * tile, columns * tile, 3)), quality)


def sizes(
    films: Sequence[UInt8[np.ndarray, "_ n t t 3"]], room: int
) -> Iterator[tuple[int, int, float]]:
    """(tile, quality, share of the prompts) that may fit into `room` bytes, best first, endlessly.

    Judged by a sample, so the first one or two may turn out too large. The share is 1 until the
    last size has been tried.
    """
    sample = [films[k] for k in spread_out(len(films), SAMPLE)]
    largest, total, (tile, quality) = max(SMALLEST, films[0].shape[2]), 0.0, SIZES[-1]
    for tile, quality in SIZES:
        if tile <= largest:
            total = sum(len(strip(f, tile, quality)) for f in sample) * len(films) / len(sample)
            if total <= room:
                yield tile, quality, 1.0
    share = min(1.0, room / total)
    while True:
        share *= 0.95
        yield tile, quality, share


def read_films(
    runs: Sequence[Compared],
    load: Callable[[Compared, int], UInt8[np.ndarray, "P N H W 3"]],
    room: int,
) -> list[UInt8[np.ndarray, "P _ n t t 3"]]:
    """The base model's pictures, then each run's; kept no larger than the room might allow."""
    models = [(runs[0], [0]), *((run, shown_steps(run)) for run in runs)]
    first = load(runs[0], 0)[:, :PICTURES]
    checkpoints = sum(len(steps) for _, steps in models)
    count = checkpoints * first.shape[0] * first.shape[1]
    tiles = [tile for tile, _ in SIZES if count * tile * tile * LEAST_BYTES <= room]
    tile = min(max(tiles, default=SMALLEST), max(first.shape[2:4]))
    films = []
    with tqdm(total=checkpoints, desc="pictures: reading") as bar:
        for run, steps in models:
            frames = []
            for step in steps:
                frames.append(fit(load(run, step)[:, :PICTURES], tile))
                bar.update()
            films.append(np.stack(frames, 1))
    return films


def film_strips(
    runs: Sequence[Compared],
    load: Callable[[Compared, int], UInt8[np.ndarray, "P N H W 3"]],
    room: int,
) -> dict[str, Any]:
    """Strips as base64 by model (the base model first) and prompt, in about `room` bytes.

    `load` reads what a run drew at a step. `steps` says by model what a strip shows, `prompts`
    which prompts found room.
    """
    room = room * 3 // 4  # base64
    films = read_films(runs, load, room)
    P, n = films[0].shape[0], films[0].shape[2]
    tile = quality = 0
    prompts: list[int] = []
    strips: list[list[bytes]] = []
    for tile, quality, share in sizes([film[p] for p in range(P) for film in films], room):
        prompts = spread_out(P, max(1, int(P * share)))
        strips = [
            [strip(film[p], tile, quality) for p in prompts]
            for film in tqdm(films, desc="pictures: encoding", unit="run")
        ]
        if sum(len(one) for row in strips for one in row) <= room or len(prompts) == 1:
            break
    return {
        "columns": min(COLUMNS, n),
        "rows": -(-n // COLUMNS),
        "count": n,
        "tile": tile,
        "quality": quality,
        "prompts": prompts,
        "steps": [[0], *map(shown_steps, runs)],
        "strips": [[base64.b64encode(one).decode("ascii") for one in row] for row in strips],
    }

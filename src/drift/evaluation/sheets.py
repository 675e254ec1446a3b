"""Contact sheets: many small pictures in one, for the eye.

Pictures are uint8 arrays "... H W 3", as evaluations store them.
"""

import io
from bisect import bisect

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
TILE = 128  # pixels; larger pictures are made smaller
LARGEST_SIDE = 16_000  # pixels; WebP's own limit is 16,383


def spread_out(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, evenly apart: not chosen by how they look."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def within(picture: Image.Image, tile: int) -> tuple[Image.Image, tuple[int, int]]:
    """As large as a square of `tile` pixels holds, in its own proportions; its place in there."""
    scale = tile / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    if picture.size != (width, height):
        # The gap lets Pillow halve large pictures before it resamples: several times faster.
        lanczos = Image.Resampling.LANCZOS
        picture = picture.resize((width, height), lanczos, reducing_gap=3.0)
    return picture, ((tile - width) // 2, (tile - height) // 2)


def block(images: UInt8[np.ndarray, "N H W 3"], columns: int, tile: int) -> Image.Image:
    """Pictures in reading order, `columns` to a row, each in a square of `tile` pixels.

    What is no picture, gaps among it, is clear.
    """
    rows = -(-len(images) // columns)
    pitch = tile + GAP
    sheet = Image.new("RGBA", (columns * pitch - GAP, rows * pitch - GAP))
    for k, pixels in enumerate(images):
        picture, (left, top) = within(Image.fromarray(pixels), tile)
        sheet.paste(picture, (k % columns * pitch + left, k // columns * pitch + top))
    return sheet


def _fitting(text: str, font, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    text = text[: max(width, 1)]  # no letter is narrower than a pixel
    if font.getlength(text) <= width:
        return text
    fits = bisect(range(1, len(text)), width, key=lambda n: font.getlength(text[:n] + "…"))
    return text[:fits] + "…"


def contact_sheet(
    images: UInt8[np.ndarray, "P N H W 3"], labels: list[str], columns: int = 8
) -> Image.Image:
    """One row for each label, with the first `columns` of its pictures."""
    shown = images[:, :columns]
    P, N, H, W, _ = shown.shape
    tile = min(TILE, max(H, W), LARGEST_SIDE // P - GAP)
    margin, pitch = 160, tile + GAP
    sheet = Image.new("RGB", (margin + N * pitch, P * pitch), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(8, min(14, tile // 2)))
    for p, label in enumerate(labels):
        text = _fitting(" ".join(label.split()), font, margin - 16)
        draw.text((8, p * pitch + tile / 2), text, fill="black", font=font, anchor="lm")
        strip = block(shown[p], N, tile)
        sheet.paste(strip, (margin, p * pitch), mask=strip)
    return sheet


def webp(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()

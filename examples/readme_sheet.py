"""Draw the README's sheet from a finished demonstration: the same prompts and seeds, three models.

python examples/readme_sheet.py runs/demo-... docs/images/demonstration.webp
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from drift.evaluation.sheets import block, spread_out, webp
from drift.evaluation.stored import list_evaluations, read_pictures

COLUMNS, PICTURES, TILE, GAP, HEAD, LEFT = 4, 8, 64, 14, 26, 96
SHOWN = 4  # prompts, evenly apart: not chosen by how they look


def main(demo: Path, out: Path) -> None:
    last = max(list_evaluations(demo / "grpo"))
    folders = {
        "base model": demo / "grpo/evaluations/step-000000",
        "GRPO": demo / f"grpo/evaluations/step-{last:06d}",
        "DRIFT": demo / f"drift/evaluations/step-{last:06d}",
    }
    prompts = list_evaluations(demo / "grpo")[0]["settings"]["prompts"]
    chosen = spread_out(len(prompts), SHOWN)
    models = {name: read_pictures(folder) for name, folder in folders.items()}
    size = block(models["GRPO"][0, :PICTURES], COLUMNS, TILE).size
    width, height = size[0] + GAP, size[1] + GAP
    sheet = Image.new("RGB", (LEFT + 3 * width, HEAD + SHOWN * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, (name, pictures) in enumerate(models.items()):
        left = LEFT + column * width
        draw.text((left, 4), name, fill="black", font=font)
        for row, p in enumerate(chosen):
            top = HEAD + row * height
            draw.text((4, top + size[1] // 2 - 10), prompts[p], fill="black", font=font)
            own = block(pictures[p, :PICTURES], COLUMNS, TILE)
            sheet.paste(own, (left, top), mask=own)  # its gaps are clear
    out.write_bytes(webp(sheet, 85))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

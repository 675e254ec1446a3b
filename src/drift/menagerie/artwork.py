"""Fetch the three emoji artwork sets by package name and rasterise the Menagerie's animals.

The artwork is an input of pre-training only: it is cached outside the repository and never shipped.
Licences and attributions are in NOTICE. Needs `npm` and the extra `pretrain` (resvg-py).
"""

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drift.errors import UserError
from drift.files.hub import cache_folder
from drift.menagerie.animals import STYLES, VARIANTS

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "twemoji": "@twemoji/svg@15.0.0",
}
SPRITE_SIZE = 96  # pixels; drawn at 26 to 52 on a 64-pixel picture
SYMMETRIC_BELOW = 0.08  # mean |drawing - mirror image|; calmer drawings have no facing


@dataclass(frozen=True)
class Sprite:
    """One drawing, premultiplied RGBA. As published, every asymmetric drawing faces left."""

    animal: int
    style: int
    variant: int
    image: Image.Image
    symmetric: bool


def fetch_package(style: str, folder: Path) -> Path:
    """Download one artwork package with `npm pack` and unpack it; returns its folder."""
    target = folder / style
    if (target / "package").is_dir():
        return target / "package"
    if shutil.which("npm") is None:
        raise UserError("pre-training fetches its artwork with `npm`, which is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["npm", "pack", "--silent", PACKAGES[style]], cwd=folder, capture_output=True, text=True
    )
    if made.returncode:
        raise UserError(f"npm could not fetch {PACKAGES[style]}: {made.stderr.strip()[-200:]}")
    archive = folder / made.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    archive.unlink()
    return target / "package"


def _iconify_svg(icons: dict, name: str) -> str:
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def _svg_sources(folders: dict[str, Path]) -> dict[tuple[str, str], str]:
    """(style, code point) -> SVG text, for every variant of every animal."""
    names = json.loads((folders["noto"] / "chars.json").read_text())  # code point -> icon name
    icons = {s: json.loads((folders[s] / "icons.json").read_text()) for s in ("noto", "fluent")}
    sources = {}
    for code in (code for variants in VARIANTS.values() for code in variants.values()):
        bare = code.removesuffix("-fe0f")
        name = names.get(code) or names[bare]
        for style, table in icons.items():
            sources[style, code] = _iconify_svg(table, name)
        files = (folders["twemoji"] / f"{spelling}.svg" for spelling in (code, bare))
        sources["twemoji", code] = next(f for f in files if f.exists()).read_text()
    return sources


def mirror_difference(image: Image.Image) -> float:
    """Mean absolute difference between a premultiplied RGBA drawing and its mirror image."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    columns = np.where((pixels[..., 3] > 0.5).any(0))[0]
    pixels = pixels[:, columns[0] : columns[-1] + 1]
    return float(np.abs(pixels - pixels[:, ::-1]).mean())


def _rasterise(svg: str) -> Image.Image:
    from resvg_py import svg_to_bytes

    png = bytes(svg_to_bytes(svg_string=svg, width=SPRITE_SIZE, height=SPRITE_SIZE))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    return image.crop(box).convert("RGBa")  # premultiplied: resizing leaves no dark fringe


def _drawings(folder: Path) -> dict[str, Image.Image]:
    """Every drawing by "STYLE CODE", rasterised on first use into `sprites.npz`.

    That file is all that another machine needs: no npm, no network and no resvg.
    """
    kept = folder / "sprites.npz"
    if not kept.exists():
        sources = _svg_sources({style: fetch_package(style, folder) for style in STYLES})
        images: dict[str, Any] = {
            f"{style} {code}": np.asarray(_rasterise(svg)) for (style, code), svg in sources.items()
        }
        np.savez_compressed(kept, **images)
    with np.load(kept) as pixels:
        return {
            key: Image.frombytes("RGBa", drawn.shape[1::-1], drawn.tobytes())
            for key, drawn in pixels.items()
        }


def load_sprites(folder: Path | None = None) -> list[Sprite]:
    """Every drawing of the Menagerie. Order: animal, variant, style."""
    drawings, sprites = _drawings(folder or cache_folder() / "artwork"), []
    for animal, variants in enumerate(VARIANTS.values()):
        for variant, code in enumerate(variants.values()):
            for style, style_name in enumerate(STYLES):
                image = drawings[f"{style_name} {code}"]
                symmetric = mirror_difference(image) < SYMMETRIC_BELOW
                sprites.append(Sprite(animal, style, variant, image, symmetric))
    return sprites

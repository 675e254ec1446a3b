"""Pictures from anywhere as the 8-bit RGB that a viewer shows, or one line that names the file."""

import os
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from drift.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
SMALLEST = 16  # pixels of a side
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def find_sets(folder: Path) -> dict[str, list[Path]]:
    """Pictures of each prompt in order of name: of every subfolder, or ("") of the folder itself.

    Files of other suffixes and hidden ones are passed over.
    """
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"measure: '{folder}' is no folder that can be read")
    own = _pictures(folder)
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if own and inner:
        raise UserError(f"measure: {folder} holds both pictures and folders ({inner[0].name})")
    sets = {p.name: _pictures(p) for p in inner} or {"": own}
    for name, pictures in sets.items():
        if not pictures:
            raise UserError(f"measure: {folder / name} holds no PNG, JPEG or WebP pictures")
    return sets


def _pictures(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    return sorted(p for p in files if not p.name.startswith("."))


def read_picture(path: Path) -> Float[Tensor, "3 H W"]:
    """Upright, in [0, 1], rounded to 8 bits, transparent parts over white; colour profiles unread.

    CMYK is converted by the plain formula, 16 bits lose their lower 8. An animation is an error.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG
                raise ValueError("an animation")
            rgb = _over_white(ImageOps.exif_transpose(image))
    except BROKEN as error:
        why = "not PNG, JPEG or WebP" if isinstance(error, Image.UnidentifiedImageError) else error
        told = " ".join(str(why).split())
        raise UserError(f"measure: {path} could not be read as a picture: {told}") from error
    if min(rgb.size) < SMALLEST:
        size = "{} × {}".format(*rgb.size)
        raise UserError(f"measure: {path} is too small: {size}, below {SMALLEST} pixels")
    return torch.from_numpy(np.array(rgb)).movedim(-1, 0).float() / 255


def _over_white(image: Image.Image) -> Image.Image:
    """The picture as RGB."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits of grey, which PIL's own conversion would clip
        if clear is not None:
            raise ValueError("16 bits with a transparent colour are not supported")
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if isinstance(clear, tuple) and max(clear) > 255:
        raise ValueError("16 bits with a transparent colour are not supported")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")

"""Pictures from anywhere as the 8-bit RGB that a viewer shows, or one line that names the file."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from drift.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
SMALLEST = 16  # pixels of a side
SHEET = "sheet.png"  # what `drift generate` lays beside its pictures, and is none of them
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
BROKEN += (ImageCms.PyCMSError,)
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of colour profiles: Pillow's names


def find_sets(folder: Path) -> dict[str, list[Path]]:
    """Pictures of each prompt in order of name: of every subfolder, or ("") of the folder itself.

    Files of other suffixes, hidden ones and sheets of `drift generate` are passed over.
    """
    try:
        own = _pictures(folder)
        inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        if own and inner:
            raise UserError(f"measure: {folder} holds both pictures and folders ({inner[0].name})")
        sets = {p.name: _pictures(p) for p in inner} or {"": own}
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"measure: '{where}' cannot be read: {error.strerror}") from error
    for name, pictures in sets.items():
        if not pictures:
            raise UserError(f"measure: {folder / name} holds no PNG, JPEG or WebP pictures")
    return sets


def _pictures(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    return sorted(p for p in files if not p.name.startswith(".") and p.name != SHEET)


def read_picture(path: Path) -> Float[Tensor, "3 H W"]:
    """Upright, in [0, 1] of sRGB, rounded to 8 bits, transparent parts over white.

    Colours are those of the embedded profile; without one RGB is sRGB, and CMYK is converted by
    the plain formula. 16 bits lose their lower 8. An animation is an error.
    """
    try:
        quiet = warnings.catch_warnings(action="ignore")  # odd EXIF, a picture that is large
        with quiet, Image.open(path, formats=FORMATS) as image:
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
    """The picture as RGB, in 8 bits of sRGB."""
    clear, profile = image.info.get("transparency"), image.info.get("icc_profile")
    grey16 = image.mode.startswith("I")  # which PIL's own conversion would clip
    if clear is not None and (grey16 or (isinstance(clear, tuple) and max(clear) > 255)):
        raise ValueError("16 bits with a transparent colour are not supported")
    if grey16:
        return _to_srgb(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)), profile)
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    alpha = image.convert("RGBA").getchannel("A")
    opaque = image.convert("L" if image.mode in ("L", "LA") else "RGB")
    white = Image.new("RGB", image.size, "white")
    return Image.composite(_to_srgb(opaque, profile), white, alpha)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture as RGB, its colours read by its ICC profile if it has one."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except OSError as error:
        raise ValueError("its colour profile is broken") from error
    space = profile[16:20].decode("latin-1").strip()  # of its header
    pixels = {"L": "GRAY", "1": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if space != pixels and (pixels, space) != ("GRAY", "RGB"):
        raise ValueError(f"its colour profile is for {space}, its pixels are {pixels}")
    srgb, mode = ImageCms.createProfile("sRGB"), SPACES[space]
    found = ImageCms.profileToProfile(image.convert(mode), source, srgb, outputMode="RGB")
    assert found is not None  # it is, unless done in place
    return found

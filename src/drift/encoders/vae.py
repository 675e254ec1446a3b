"""Latents of a diffusion model's own autoencoder: a diversity that needs no second network.

Ours, not the paper's: it answers the limitation that the diversity reward wants an auxiliary
encoder. A feature is the posterior's mean, shifted and scaled as the model's UNet sees it, and
divided by the root of its length: the squared distance of two pictures is the mean over latent
elements of their squared difference, about 2 if nothing is alike, at any picture size. Latents
compare pictures place by place, like blurred pixels; they know nothing of meaning.
"""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from drift.errors import UserError
from drift.files import single_file
from drift.files.pretrained import load_pretrained
from drift.pixels import in_chunks

FILES = ("vae/config.json", "vae/diffusion_pytorch_model*.safetensors")  # or only .fp16
CHUNK = 4  # each takes 0.6 GB, measured on SD 1.5's encoder at 512 x 512


class VaeLatents(nn.Module):
    """An `ImageEncoder` over diffusers' AutoencoderKL."""

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae
        self.shift: float = vae.config.get("shift_factor") or 0.0
        self.scale: float = vae.config.scaling_factor

    def encode(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        mean = self.vae.encode(2 * images - 1).latent_dist.mean
        latents = (self.scale * (mean - self.shift)).flatten(1)
        return latents / latents.shape[1] ** 0.5

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        return in_chunks(self.encode, images, next(self.parameters()).device, CHUNK)


def load(path: Path, device: str = "cpu") -> VaeLatents:
    """The autoencoder at `path`, frozen, in float32.

    In a diffusers folder, of a pipeline or its own, or in a file in Stable Diffusion's layout.
    """
    vae: Any = _read_folder(path) if path.is_dir() else single_file.load_part(path, "vae")
    vae.decoder = vae.post_quant_conv = None  # half of the memory
    return VaeLatents(vae).to(device).eval().requires_grad_(False)


def _read_folder(path: Path) -> Any:
    folder = path / "vae" if (path / "vae").is_dir() else path
    try:
        kind = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError) as error:
        raise UserError(f"encoder: '{path}' holds no autoencoder of diffusers: {error}") from error
    if kind != "AutoencoderKL":
        raise UserError(f"encoder: '{folder}' is a {kind}, not an AutoencoderKL")
    from diffusers import AutoencoderKL

    return load_pretrained(AutoencoderKL, folder, "encoder")

"""The attribute probe: reads animal, style, variant, scene, facing, size and place from a picture.

It is the Menagerie's measuring instrument, trained apart from every reward and encoder. Pictures
are mixed during its training, so that a mangled animal gets a low probability: `is_animal` asks for
more than one half.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from drift.menagerie.animals import ANIMALS, FACINGS, STYLES, VARIANTS
from drift.menagerie.scenes import SCENES

KINDS = tuple((animal, variant) for animal in ANIMALS for variant in VARIANTS[animal])
HEADS = {
    "animal": len(ANIMALS),
    "style": len(STYLES),
    "kind": len(KINDS),
    "scene": len(SCENES),
    "facing": len(FACINGS),
}


@dataclass(frozen=True)
class Reading:
    """What the probe sees in N pictures: class probabilities; size and place as in `Attributes`."""

    animal: Float[Tensor, "N A"]
    style: Float[Tensor, "N S"]
    kind: Float[Tensor, "N K"]
    scene: Float[Tensor, "N B"]
    facing: Float[Tensor, "N F"]
    size: Float[Tensor, "N"]
    x: Float[Tensor, "N"]
    y: Float[Tensor, "N"]

    def shown(self, wanted: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """How probably each picture shows the wanted animal."""
        return self.animal.gather(1, wanted[:, None])[:, 0]

    def is_animal(self, wanted: Int[Tensor, "N"]) -> Tensor:
        """Whether each picture clearly shows the wanted animal (probability > 1/2): bool "N"."""
        return self.shown(wanted) > 0.5

    def modes(self) -> Tensor:
        """One number for each (style, scene, facing): int64 "N"."""
        scene = self.style.argmax(1) * len(SCENES) + self.scene.argmax(1)
        return scene * len(FACINGS) + self.facing.argmax(1)


class Block(nn.Module):
    """Two 3x3 convolutions with a residual path; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.relu(self.norm2(h)))


class Probe(nn.Module):
    """A small residual network with a linear head for each attribute; 0.7 M parameters."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128)):
        super().__init__()
        self.widths = widths
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(
            *(Block(a, b, stride=1 if k == 0 else 2) for k, (a, b) in enumerate(pairs))
        )
        self.norm = nn.GroupNorm(8, widths[-1])
        self.place = nn.Linear(16 * widths[-1], 3)  # size, x, y from the 4x4 map
        self.heads = nn.ModuleDict({n: nn.Linear(2 * widths[-1], c) for n, c in HEADS.items()})

    def forward(self, images: Float[Tensor, "N 3 64 64"]) -> tuple[dict[str, Tensor], Tensor]:
        """Class logits by head and (size, x, y) "N 3", for images in [0, 1]."""
        h = F.relu(self.norm(self.blocks(self.stem(images * 2 - 1))))
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}, self.place(h.flatten(1))


def load_probe(folder: Path) -> Probe:
    """The probe saved in `folder` (config.json, model.safetensors), ready to read."""
    config = json.loads((folder / "config.json").read_text())
    probe = Probe(tuple(config["widths"]))
    probe.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    )
    return probe.eval().requires_grad_(False)


@torch.no_grad()
def read(probe: Probe, images: Float[Tensor, "N 3 64 64"], batch_size: int = 200) -> Reading:
    """Read the attributes of images in [0, 1]."""
    logits, places = zip(*(probe(part) for part in images.split(batch_size)), strict=True)
    probabilities = {name: torch.cat([part[name] for part in logits]).softmax(1) for name in HEADS}
    size, x, y = torch.cat(places).unbind(1)
    return Reading(**probabilities, size=size, x=x, y=y)

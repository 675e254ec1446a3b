"""A reward with data of each prompt: scenes.jsonl asks for a scene and a style beside an animal.

    cd examples
    drift train smoke prompts=scenes.jsonl evaluation.prompts= reward=scene_and_style:as_asked

    {"prompt": "a fox", "scene": "snow", "style": "noto"}

The prompt names the animal alone, so that the policy has to find out what its pictures should show.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from drift.files.hub import SHIPPED
from drift.menagerie.animals import ANIMALS, STYLES
from drift.menagerie.judge import animal_of
from drift.menagerie.probe import load_probe, read
from drift.menagerie.scenes import SCENES

PROBE = load_probe(SHIPPED / "probe")  # reads animal, scene and style off a picture


def as_asked(
    images: Float[Tensor, "N 3 64 64"], prompts: list[str], metadata: list[dict]
) -> Float[Tensor, "N"]:
    """From 0 to 1: the animal's probability times the mean of the scene's and the style's."""
    seen, rows = read(PROBE, images.cpu()), torch.arange(len(images))
    animal = seen.animal[rows, [ANIMALS.index(animal_of(prompt)) for prompt in prompts]]
    scene = seen.scene[rows, [SCENES.index(asked["scene"]) for asked in metadata]]
    style = seen.style[rows, [STYLES.index(asked["style"]) for asked in metadata]]
    return animal * (scene + style) / 2

"""Pictures that the model draws, and what they are worth: on such the rewards learn to judge.

PickScore learned from comparisons of generated pictures. A reward that has seen painted ones only
takes the model's own faults for taste: it agreed with the truth to 0.88 on paintings and to 0.6 on
what the model drew.
"""

from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from drift.menagerie.animals import ANIMALS
from drift.menagerie.captions import simple_prompt
from drift.menagerie.probe import Probe, Reading, read
from drift.menagerie.taste import Taste, cleanness, utility

STEPS, ETAS, GUIDANCE = (5, 10, 25), (0.0, 1.0), (1.0, 2.0, 3.0)  # every combination is drawn
AT_ONCE = 16


@dataclass(frozen=True)
class Drawn:
    """Pictures [N, S, S, 3] uint8, and the numbers "N" of the animals they were asked to show."""

    pictures: np.ndarray
    animal: np.ndarray

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **vars(self))

    @staticmethod
    def load(file: Path) -> "Drawn":
        with np.load(file) as kept:
            return Drawn(kept["pictures"], kept["animal"])


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline, per_animal: int, seed: int, samplers: list[tuple] | None = None
) -> Drawn:
    """At least `per_animal` pictures of "a <animal>" for each, by all samplers in turn.

    `samplers`: (steps, eta, guidance scale).
    """
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    turns = cycle(samplers or list(product(STEPS, ETAS, GUIDANCE)))
    drawn, calls = [], -(-per_animal // AT_ONCE)
    for animal in tqdm(ANIMALS, desc="draw"):
        for _ in range(calls):
            steps, eta, guidance = next(turns)
            images = pipe(
                [simple_prompt(animal)] * AT_ONCE,
                num_inference_steps=steps,
                eta=eta,
                guidance_scale=guidance,
                generator=generator,
                output_type="np",
            ).images
            drawn.append((np.asarray(images) * 255 + 0.5).astype(np.uint8))
    animals = np.repeat(np.arange(len(ANIMALS)), calls * AT_ONCE)
    return Drawn(np.concatenate(drawn), animals)


def draw_tuned(
    pipe: StableDiffusionPipeline, checkpoints: list[Path], per_animal: int, seed: int
) -> Drawn:
    """Equal shares from the model and from each of its adapters: what rewards are used on."""
    parts = [draw(pipe, per_animal // (1 + len(checkpoints)), seed)]
    for k, checkpoint in enumerate(checkpoints, 1):
        pipe.load_lora_weights(checkpoint)
        parts.append(draw(pipe, per_animal // (1 + len(checkpoints)), seed + k))
        pipe.unload_lora_weights()
    return Drawn(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.animal for part in parts]),
    )


def gold_of(
    taste: Taste, probe: Probe, images: Float[Tensor, "N 3 S S"], wanted: Tensor
) -> tuple[Float[Tensor, "N"], Reading]:
    """The gold utility of pictures for the animals "N" asked for, as the probe reads them."""
    seen = read(probe, images)
    return utility(taste, seen, seen.shown(wanted), cleanness(images)), seen

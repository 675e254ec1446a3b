"""Rewards of your own: one that looks at each image, one that looks at a prompt's whole group.

    cd examples
    drift train smoke reward="custom_reward:warmth + 2*custom_reward:unlike"

Run by itself, this page scores eight pictures: python examples/custom_reward.py
"""

import torch
from jaxtyping import Float
from torch import Tensor

from drift.rewards import load_reward
from drift.training.scoring import score


def warmth(images: Float[Tensor, "N 3 H W"], prompts: list[str]) -> Float[Tensor, "N"]:
    """Red minus blue, from -1 to 1. Prompts of several groups may come together."""
    return (images[:, 0] - images[:, 2]).mean((1, 2))


def unlike(images: Float[Tensor, "G 3 H W"], prompt: str) -> Float[Tensor, "G"]:
    """How far an image's mean colour lies from its group's."""
    colours = images.mean((2, 3))
    return (colours - colours.mean(0)).norm(dim=1)


unlike.per_group = True  # all images of one prompt at once, and that prompt


def main() -> None:
    prompts = ["a fox in the snow", "a whale"]
    images = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0] = 1.0  # one reddish picture
    for name in ("warmth", "unlike"):
        rewards = score(load_reward(f"{__name__}:{name}"), images, prompts)
        for prompt, row in zip(prompts, rewards, strict=True):
            print(f"{name:7} {prompt:18}", *(f"{reward:+.3f}" for reward in row.tolist()))


if __name__ == "__main__":
    main()

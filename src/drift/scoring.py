"""Rewards and features of sampled images."""

import torch
from jaxtyping import Float
from torch import Tensor

from drift.errors import UserError
from drift.types import ImageEncoder, Reward


@torch.no_grad()
def score(
    reward: Reward, images: Float[Tensor, "P C 3 H W"], prompts: list[str]
) -> Float[Tensor, "P C"]:
    """The raw reward of every image under its own prompt. Not finite is an error."""
    P, C = images.shape[:2]
    repeated = [prompt for prompt in prompts for _ in range(C)]
    rewards = reward(images.flatten(0, 1), repeated).float()
    if rewards.shape != (P * C,):
        raise UserError(f"the reward returned shape {tuple(rewards.shape)} for {P * C} images")
    if not rewards.isfinite().all():
        bad = int((~rewards.isfinite()).nonzero()[0])
        raise UserError(f"the reward of an image for '{repeated[bad]}' is {rewards[bad].item()}")
    return rewards.view(P, C)


@torch.no_grad()
def embed(
    encoder: ImageEncoder | None, images: Float[Tensor, "P G 3 H W"]
) -> Float[Tensor, "P G D"]:
    """Features of every image; without an encoder, of no width."""
    if encoder is None:
        return images.new_zeros(*images.shape[:2], 0)
    return encoder(images.flatten(0, 1)).float().unflatten(0, images.shape[:2])

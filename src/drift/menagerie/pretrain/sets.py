"""The picture sets that every part is trained on and held to: painted once, kept in the cache."""

import time

import numpy as np
import torch
from torch import Tensor

from drift.files.hub import cache_folder
from drift.menagerie.pictures import Attributes, render
from drift.menagerie.pretrain.loop import CPU, Workshop
from drift.menagerie.pretrain.together import processes

TRAIN_SEED, TEST_SEED = 0, 1  # the sets that are trained on, and held out


def to_images(pictures: np.ndarray, device: torch.device = CPU) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 images [N, 3, S, S] in [0, 1], channels last."""
    images = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2)
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)


def picture_set(
    seed: int, count: int, on_grid: bool = False, workers: int = 2
) -> tuple[np.ndarray, Attributes]:
    """Pictures [N, 64, 64, 3] uint8 (memory-mapped) and truth, painted once into the cache.

    Under torchrun the first process paints, and the others wait for it.
    """
    folder, name = cache_folder() / "pictures", f"{seed}-{count}{'-grid' * on_grid}"
    pixels, truth = folder / f"{name}.npy", folder / f"{name}.npz"
    if processes()[0] == 0 and not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, attributes = render(seed, count, on_grid, workers)
        np.save(pixels, pictures)
        partial = truth.with_suffix(".partial.npz")
        np.savez(partial, **vars(attributes))
        partial.replace(truth)
    while not truth.exists():
        time.sleep(0.5)
    with np.load(truth) as columns:
        return np.load(pixels, mmap_mode="r"), Attributes(**columns)


def training_set(
    shop: Workshop, count: int = 48_000, on_grid: bool = False
) -> tuple[np.ndarray, Attributes]:
    """`picture_set` of those that are trained on."""
    return picture_set(TRAIN_SEED, count, on_grid, shop.workers)

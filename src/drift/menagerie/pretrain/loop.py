"""The loop every part of the Menagerie is trained with: resumable, averaged, with a bar."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from drift.files.hub import cache_folder
from drift.menagerie.pictures import Attributes, render

TRAIN_SEED, TEST_SEED = 0, 1  # the picture sets that are trained on, and held out


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW, linear warm-up, cosine decay to zero, averaged weights."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    average: float = 0.999  # decay of the exponential moving average of the weights
    save_every: int = 500

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 images [N, 3, S, S] in [0, 1], channels last."""
    images = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2)
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)


def processes() -> tuple[int, int]:
    """(rank, count) of torchrun's processes, joined at the first call; (0, 1) without torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def picture_set(seed: int, count: int, on_grid: bool = False) -> tuple[np.ndarray, Attributes]:
    """Pictures [N, 64, 64, 3] uint8 (memory-mapped) and truth, rendered once into the cache.

    Under torchrun the first process renders, and the others wait for it.
    """
    folder, name = cache_folder() / "pictures", f"{seed}-{count}{'-grid' * on_grid}"
    pixels, truth = folder / f"{name}.npy", folder / f"{name}.npz"
    rank, together = processes()
    if rank == 0 and not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, attributes = render(seed, count, on_grid)
        np.save(pixels, pictures)
        np.savez(truth, **vars(attributes))
    if together > 1:
        dist.barrier()
    with np.load(truth) as columns:
        return np.load(pixels, mmap_mode="r"), Attributes(**columns)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one exchange."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def batch_rng(step: int, stream: int = 0) -> np.random.Generator:
    """The generator of one step's batch: a resumed run draws what an uninterrupted one would."""
    return np.random.default_rng((7, stream, step))


def fit(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int, np.random.Generator], Tensor],
    schedule: Schedule,
    *,
    work: Path,
    parameters: list[nn.Parameter] | None = None,
) -> None:
    """Minimise `loss_at(step, rng)` over the module; leaves the averaged weights in it.

    State goes to `work/<name>.pt` every `save_every` steps; a second call continues from there.
    Under torchrun every process draws a batch of its own, and gradients are averaged.
    """
    rank, count = processes()
    parameters = parameters or [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, foreach=True
    )
    average = [p.detach().clone() for p in parameters]
    state_file, smooth = work / f"{name}.pt", None
    average, start = _restore(state_file, module, optimizer) or (average, 0)
    progress = tqdm(
        range(start, schedule.steps),
        desc=name,
        initial=start,
        total=schedule.steps,
        disable=rank > 0,
    )
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        torch.manual_seed(step * count + rank)
        loss = loss_at(step, batch_rng(step, rank))
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(schedule.average, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{smooth:.4f}", rate=f"{schedule.rate(step):.1e}")
        due = (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps
        if due and rank == 0:
            _save(state_file, module, optimizer, average, step + 1)
    with torch.no_grad():
        torch._foreach_copy_(list[Tensor](parameters), average)


def _restore(file: Path, module: nn.Module, optimizer) -> tuple[list[Tensor], int] | None:
    """Put saved state into module and optimizer; returns the average and the steps done."""
    if not file.exists():
        return None
    state = torch.load(file, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return state["average"], state["step"]


def _save(file: Path, module: nn.Module, optimizer, average: list[Tensor], step: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    state = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "step": step,
    }
    torch.save(state, partial)
    partial.replace(file)

"""The loop every part of the Menagerie is trained with: resumable, averaged, with a bar."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from drift.menagerie.pretrain.muon import Muon
from drift.menagerie.pretrain.together import agreed, average_gradients, processes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workshop:
    """Where parts are trained: the folder of resumable state, the device, who paints pictures."""

    work: Path
    device: torch.device = CPU
    workers: int = 2  # processes that paint

    def half(self) -> torch.autocast:
        """bfloat16 where the device is fast in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Muon, linear warm-up, cosine decay to zero, averaged weights."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    average: float = 0.999  # decay of the exponential moving average of the weights
    save_every: int = 500
    minutes: float | None = None  # of training, in place of `steps`: not repeatable to the bit

    def done(self, step: int, seconds: float) -> float:
        """Share of the training that lies behind, after so many steps and seconds."""
        return seconds / 60 / self.minutes if self.minutes else step / self.steps

    def rate(self, step: int, done: float) -> float:
        """The learning rate of a step with the share `done` behind it."""
        rise = min(1.0, (step + 1) / self.warmup)
        start = 0.0 if self.minutes else min(1.0, self.warmup / self.steps)
        fall = max(0.0, done - start) / max(1e-9, 1 - start)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


def batch_rng(step: int, stream: int = 0) -> np.random.Generator:
    """The generator of one step's batch: a resumed run draws what an uninterrupted one would."""
    return np.random.default_rng((7, stream, step))


@dataclass
class State:
    """What an interrupted training goes on from."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: list[Tensor]  # of the trained weights
    step: int = 0
    seconds: float = 0.0

    def restore(self, file: Path) -> None:
        """Take up what `file` holds; the beginning, where there is none."""
        if not file.exists():
            return
        kept = torch.load(file, weights_only=True, map_location=self.average[0].device)
        self.module.load_state_dict(kept["module"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.average, self.step = kept["average"], kept["step"]
        self.seconds = kept.get("seconds", 0.0)

    def follow(self, parameters: list[nn.Parameter], most: float) -> None:
        """Move the average towards the weights; at first it forgets faster than by `most`."""
        decay = min(most, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in parameters], 1 - decay)

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        kept = vars(self) | {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(kept, partial)
        partial.replace(file)


def fit(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int, np.random.Generator], Tensor],
    schedule: Schedule,
    shop: Workshop,
    parameters: list[nn.Parameter] | None = None,
) -> None:
    """Minimise `loss_at(step, rng)` over the module; leaves the averaged weights in it.

    State goes to `<work>/<name>.pt` every `save_every` steps; a second call continues from there.
    Under torchrun every process draws a batch of its own, and gradients are averaged.
    """
    rank, count = processes()
    module.to(shop.device)
    parameters = parameters or [p for p in module.parameters() if p.requires_grad]
    optimizer = Muon(parameters, schedule.learning_rate, schedule.weight_decay)
    state = State(module, optimizer, [p.detach().clone() for p in parameters])
    file, smooth = shop.work / f"{name}.pt", None
    state.restore(file)
    total = None if schedule.minutes else schedule.steps
    progress = tqdm(desc=name, initial=state.step, total=total, disable=rank > 0)
    began, before = time.monotonic(), state.seconds
    while (done := agreed(schedule.done(state.step, state.seconds))) < 1:
        rate = schedule.rate(state.step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(state.step * count + rank)
        with shop.half():
            loss = loss_at(state.step, batch_rng(state.step, rank))
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state.follow(parameters, schedule.average)
        smooth = loss.detach() if smooth is None else 0.98 * smooth + 0.02 * loss.detach()
        if state.step % 20 == 0:
            progress.set_postfix(
                loss=f"{smooth.item():.4f}", rate=f"{rate:.1e}", done=f"{done:.0%}"
            )
        state.step, state.seconds = state.step + 1, before + time.monotonic() - began
        progress.update()
        if rank == 0 and state.step % schedule.save_every == 0:
            state.save(file)
    if rank == 0:
        state.save(file)
    progress.close()
    with torch.no_grad():
        torch._foreach_copy_(list[Tensor](parameters), state.average)

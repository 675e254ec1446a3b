"""How many rows each stage takes at once, so that a run fits into memory: chosen before it starts.

Each stage is tried with one row and with two, on the real networks, the real device and the first
of the run's own prompts. That gives what it takes by itself and what each further row costs. What a
first call takes for good (a copy of the base, a library's workspace) is in use by then. A size that
a recipe asks for is halved until it fits; one of 0 begins with all rows of the stage, or MOST. What
fits ill all the same, as when something else takes memory later, is halved when it happens
(`drift.training.memory`).

Results depend on the sizes by rounding only. A resumed run never takes larger ones than before.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drift.config import TrainConfig
from drift.functional.noise import trajectory_noise
from drift.recipes import read_prompts
from drift.training.memory import free_memory, peak_memory
from drift.training.rollout import decode, plan_steps, trained_schedule
from drift.training.update import Signal, trained_pairs, trial_gradient
from drift.types import ImageEncoder, PolicyModel, Reward, Rollout

SHARE = 0.85  # of the free memory that is planned with; the rest is for the allocator's gaps
MOST = 64  # rows at once, where a recipe leaves it open; more is hardly faster
SIZES = (
    "sampling.batch_size",
    "sampling.decode_batch_size",
    "sampling.scoring_batch_size",
    "optimizer.micro_batch_size",
)


@dataclass(frozen=True)
class Stage:
    """A batch size to be chosen, and one call of what it multiplies."""

    field: str  # "section.name" of the configuration
    rows: int  # that there are
    work: Callable[[int], object]  # with so many rows


def fit(most: int, one: int, two: int, free: int) -> int:
    """The largest of `most`, its half, its quarter, ... that fits into `free` bytes; at least 1.

    `one` and `two` are the bytes that one row and two rows take.
    """
    each = max(two - one, 0)
    while most > 1 and one + (most - 1) * each > free:
        most //= 2
    return most


def stages(
    config: TrainConfig, model: PolicyModel, reward: Reward, *encoders: ImageEncoder | None
) -> list[Stage]:
    """The four of an epoch, in its order; whatever encoders a run has judge with the reward."""
    images, pairs = config.images_sampled, config.samples_per_update * config.sampling.steps
    prompt = read_prompts(config.prompts)[0]
    size = config.sampling.size
    image = decode(model, _noise(model, 1, size)[0].to(model.device), 1)
    return [
        Stage(SIZES[0], images, lambda n: _predict(model, [prompt] * n, config)),
        Stage(SIZES[1], images, lambda n: _decode(model, n, size)),
        Stage(SIZES[2], images, lambda n: _judge(reward, encoders, image, [prompt] * n)),
        Stage(SIZES[3], pairs, lambda n: _backward(model, prompt, n, config)),
    ]


def plan(
    config: TrainConfig,
    model: PolicyModel,
    reward: Reward,
    *encoders: ImageEncoder | None,
    free: int | None = None,
) -> TrainConfig:
    """`config` with batch sizes that fit into `free` bytes; by default what is free, but a part.

    The model must have what is trained already; its gradients and moments are left room for.
    """
    todo = stages(config, model, reward, *encoders)
    for stage in todo:
        with suppress(torch.OutOfMemoryError):  # it is told when it is measured
            stage.work(1)  # the first call
    if free is None:
        free = int(SHARE * free_memory(model.device))
    trained = sum(p.numel() for p in model.trainable_parameters())
    free -= 4 * trained * 3  # bytes: the gradient and AdamW's two moments, in float32
    for stage in todo:
        asked = read_size(config, stage.field)
        most = min(asked or MOST, stage.rows)
        size = _size(stage, most, free, model.device)
        if size < most or not asked:
            config = put_size(config, stage.field, size)
    return config


def changes(asked: TrainConfig, planned: TrainConfig) -> list[str]:
    """A line for each size that is not the one asked for."""
    pairs = [(field, read_size(asked, field), read_size(planned, field)) for field in SIZES]
    return [
        f"{field}: {size} at once" + (f", for {before} do not fit into memory" if before else "")
        for field, before, size in pairs
        if size != before
    ]


def sizes(config: TrainConfig) -> dict[str, int]:
    """The batch sizes by field."""
    return {field: read_size(config, field) for field in SIZES}


def limit(config: TrainConfig, before: dict[str, int]) -> TrainConfig:
    """`config` with no larger sizes than those of `before`."""
    for field, size in before.items():
        config = put_size(config, field, min(read_size(config, field) or size, size))
    return config


def read_size(config: TrainConfig, field: str) -> int:
    """The batch size in `field` ("section.name")."""
    section, name = field.split(".")
    return getattr(getattr(config, section), name)


def put_size(config: TrainConfig, field: str, size: int) -> TrainConfig:
    """The same with another batch size."""
    section, name = field.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: size})})


def _size(stage: Stage, most: int, free: int, device: torch.device) -> int:
    """The largest size that fits; one row is tried only where two do not settle it."""
    two = _measure(stage, 2, device)
    if two is None:
        return 1
    if two * most <= 2 * free:  # what n rows take is at most n / 2 of that
        return most
    one = _measure(stage, 1, device)
    return 1 if one is None else fit(most, one, two, free)


def _measure(stage: Stage, rows: int, device: torch.device) -> int | None:
    """Bytes of one call with so many rows; None if they do not fit now."""
    try:
        return peak_memory(lambda: stage.work(rows), device)
    except torch.OutOfMemoryError:
        return None


# --- one call of each stage, on noise ---


def _noise(model: PolicyModel, rows: int, size: tuple[int, int] | None, steps: int = 0) -> Tensor:
    """Latents "T+1 B c h w", on the CPU; the random state of the program is left alone."""
    return trajectory_noise(list(range(rows)), model.latent_shape(size), steps)


@torch.no_grad()
def _predict(model: PolicyModel, prompts: list[str], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """One denoising step; the states that a trajectory collects, and their stack, are there too."""
    rows, sampling = len(prompts), config.sampling
    x = _noise(model, rows, sampling.size)[0].to(model.device)
    collected = x.new_empty(2 * sampling.steps, *x.shape)
    times = trained_schedule(model, config).timesteps[:1].expand(rows)
    told = model.encode(prompts, sampling.negative_prompt)
    return collected, model.predict(x, times, told, sampling.guidance_scale)


@torch.no_grad()
def _decode(model: PolicyModel, rows: int, size: tuple[int, int] | None) -> Tensor:
    return model.decode(_noise(model, rows, size)[0].to(model.device))


@torch.no_grad()
def _judge(
    reward: Reward, encoders: Sequence[ImageEncoder | None], image: Tensor, prompts: list[str]
) -> None:
    """A reward that wants whole groups has no size to choose, and is not asked."""
    images = image.repeat(len(prompts), 1, 1, 1)
    if not getattr(reward, "per_group", False):
        reward(images, prompts)
    for encoder in encoders:
        if encoder is not None:
            encoder(images)


def _backward(model: PolicyModel, prompt: str, rows: int, config: TrainConfig) -> None:
    """The gradient of one micro-batch, of the first steps of one made-up trajectory."""
    sampling = config.sampling
    made_up = Rollout(
        [prompt],
        model.encode([prompt], sampling.negative_prompt).each(Tensor.cpu),
        plan_steps(trained_schedule(model, config), config, 1, epoch=1),
        torch.zeros(1, 1, dtype=torch.long),
        torch.zeros(1, 1, sampling.steps),
        _noise(model, 1, sampling.size, sampling.steps).movedim(1, 0)[None],
        torch.zeros(1, 1, 3, 1, 1),
    )
    pairs = trained_pairs(made_up, torch.zeros(rows, dtype=torch.long))[:rows]
    trial_gradient(model, made_up, Signal(torch.ones(1, 1)), config, pairs)

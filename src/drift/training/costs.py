"""What a training takes, in units that do not depend on the machine: counted, not measured."""

import math
from dataclasses import dataclass

from torch import Generator

from drift.config import TrainConfig
from drift.models import is_told_guidance
from drift.recipes import read_prompts


@dataclass(frozen=True)
class Cost:
    """Of a training, without its evaluation."""

    images: int
    network_evaluations: int  # rows through the denoiser, forward and backward counted alike
    reward_calls: int  # images scored


def cost(config: TrainConfig, epochs: int | None = None) -> Cost:
    """Of the whole run or its first `epochs`.

    Guidance doubles the denoiser's rows, unless it is an input (FLUX), and a backward pass counts
    as two. The base model's mean and the replayed log-probabilities are a forward pass each, where
    a run has them.
    """
    sampling, epochs = config.sampling, config.epochs if epochs is None else epochs
    rows = 1 if sampling.guidance_scale == 1 or is_told_guidance(config.model.name) else 2
    images = epochs * config.images_sampled
    replayed = config.method.timesteps(1, sampling.steps, 1, Generator()).shape[1]
    trained = epochs * config.images_kept * replayed
    again = bool(config.method.regulariser.weight) + (config.optimizer.old_log_probs == "replay")
    return Cost(
        images=images,
        network_evaluations=rows * (images * sampling.steps + (3 + again) * trained),
        reward_calls=images,
    )


def judged_images(config: TrainConfig) -> int:
    """Drawn to evaluate every checkpoint of a run; the base model's, which runs share, left out."""
    asked = config.evaluation
    prompts = len(read_prompts(asked.prompts or config.prompts))
    checkpoints = math.ceil(config.epochs / config.checkpoint_every)
    return checkpoints * (asked.prompts_count or prompts) * asked.images_per_prompt

"""`python -m benchmarks signal`: how much of a gradient is signal, by step.

Batches of pictures are drawn from the policy as it is at the start, or in a checkpoint, and none is
learned from. Two independent batches have the true gradient in common and nothing else, so
    signal = E <g, g'>          over pairs of different batches: |E g|^2, without bias,
    noise  = E |g|^2 - signal   the variance of one batch's gradient,
    cosine = E <g, g'> / (|g| |g'|), the share of a batch's gradient that another confirms.
With the steps' gradients g_k the weights w of the best cosine solve (C - M) w = m, where
M_kl = E <g_k, g'_l>, C_kl = E <g_k, g_l> and m_k = sum_l M_kl: signal over noise squared, where
steps are independent.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from drift.recipes import load_recipe, read_prompts
from drift.training.epoch import Lesson, Run, take_lesson
from drift.training.loop import draw_prompts, start
from drift.training.runs import choose_checkpoints
from drift.training.tracking import Stopwatch
from drift.training.update import trained_pairs, trial_gradient


@dataclass(frozen=True)
class Signal:
    """Figures of B independent batches' gradients, one for each of T steps."""

    cosine: Float[Tensor, "T"]
    signal: Float[Tensor, "T"]  # |E g_k|^2
    noise: Float[Tensor, "T"]
    total: float  # cosine of the gradients of all steps, weighted as the recipe has it
    best: float  # the same with the best weights
    weights: Float[Tensor, "T"]  # those, of mean 1; a step of negative weight counts 0


def between(figures: Float[Tensor, "B B *rest"]) -> Float[Tensor, "*rest"]:
    """Mean over pairs of different batches."""
    return figures[~torch.eye(len(figures), dtype=torch.bool)].mean(0)


def cosine_of(grams: Float[Tensor, "B B T T"], weights: Float[Tensor, "T"]) -> float:
    """Mean cosine of different batches' gradients, their steps weighed by `weights`."""
    inner = torch.einsum("abkl,k,l->ab", grams, weights, weights)
    norms = inner.diagonal().clamp(min=1e-30).sqrt()
    return float(between(inner / norms[:, None] / norms))


def analyse(grams: Float[Tensor, "B B T T"]) -> Signal:
    """Of inner products <g_k of batch a, g_l of batch b>, the figures of `Signal`."""
    M, C = between(grams), grams.diagonal().mean(-1)
    M = (M + M.T) / 2
    noise, alone = C - M, torch.eye(len(M)).to(grams)
    ridge = 1e-3 * noise.diagonal().mean() * alone
    weights = torch.linalg.solve(noise + ridge, M.sum(1)).clamp(min=0)
    weights = weights / weights.mean().clamp(min=1e-30)
    return Signal(
        cosine=torch.tensor([cosine_of(grams, one) for one in alone]),
        signal=M.diagonal(),
        noise=noise.diagonal(),
        total=cosine_of(grams, alone.sum(0)),
        best=cosine_of(grams, weights),
        weights=weights,
    )


def gradients(run: Run, lesson: Lesson) -> Float[Tensor, "T D"]:
    """The gradient of each trained step, as the mean over the lesson's pictures."""
    kept, size = lesson.kept, run.learner.micro_batch_size
    pairs = trained_pairs(kept, torch.arange(kept.seeds.numel()))
    rows = []
    for step in pairs[:, 1].unique().tolist():
        own = pairs[pairs[:, 1] == step]
        total: Tensor | float = 0.0
        for part in own.split(size):
            found = trial_gradient(run.model, kept, lesson.signal, run.config, part)
            flat = torch.cat([g.flatten().float().cpu() for g in found if g is not None])
            total = total + flat * len(part) / len(own)
        rows.append(total)
    return torch.stack(rows)


def measure(overrides: list[str], batches: int, tuned: Path | None = None) -> Signal:
    """The signal of `batches` batches of a recipe's pictures; overrides: RECIPE key=value ..."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, *rest = overrides
        config = load_recipe(recipe, [*rest, f"output={folder}/run", "live.every=0"])
        if config.threads:
            torch.set_num_threads(config.threads)
        run, prompts = start(config, resume=False), read_prompts(config.prompts)
        if tuned is not None:
            run.model.load_weights(choose_checkpoints(tuned, "last")[0].folder)
        found = []
        for epoch in tqdm(range(1, batches + 1), desc="batches"):
            drawn = draw_prompts(prompts, config.sampling.prompts_per_epoch, config.seed, epoch)
            found.append(gradients(run, take_lesson(run, drawn, epoch, Stopwatch())))
    grams = torch.stack([torch.stack([a @ b.T for b in found]) for a in found])
    return analyse(grams)


def report(overrides: list[str], batches: int, tuned: Path | None, out: Path | None) -> None:
    """Measure and print; `out` gets the figures as JSON."""
    found = measure(overrides, batches, tuned)
    print("step   cosine   signal/noise   best weight")
    ratio = (found.signal.clamp(min=0) / found.noise).sqrt()
    for k, row in enumerate(zip(found.cosine, ratio, found.weights, strict=True)):
        print(f"{k:4d}   {row[0]:6.3f}   {row[1]:12.3f}   {row[2]:11.2f}")
    pairs = batches * (batches - 1) // 2
    print(f"all steps: cosine {found.total:.3f}; best weights: {found.best:.3f}; {pairs} pairs")
    if out:
        told = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(found).items()}
        out.write_text(
            json.dumps({"recipe": overrides, "batches": batches} | told, indent=1) + "\n"
        )

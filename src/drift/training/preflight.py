"""Before anything is learnt: does the replay see the policy that the rollout was sampled from?

Before the first optimizer step every ratio must be 1. Where it is not, the likely causes are tried
in turn, each by taking it away, and the one that explains the difference is named.

Where rollout and replay run in batches of different shapes, float32 leaves about 1e-6 at eta = 1,
and more at a smaller eta, whose last step is nearly certain. So 5e-6 is let pass, a twentieth of
the paper's clip range, or 1 % of the clip range.
Where `model.dtype` asks for half precision its rounding is let pass too: `first_clip_fraction` in
metrics.jsonl tells how much of the first update it clips.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from drift.config import OWN_FEATURES, TrainConfig
from drift.errors import UserError
from drift.methods.parts import CleanPrompt
from drift.training.policy import make_trainable
from drift.training.rollout import trained_schedule
from drift.training.update import replay, trained_pairs
from drift.types import PolicyModel, Rollout

TOLERANCE = 5e-6  # of the ratio, in float32; or 1 % of the clip range, if that is more
HALF = 10.0  # clip ranges that half precision may be off by (ours; not measured on a GPU yet)
HURRIED = re.compile(r"turbo|lightning|hyper|lcm", re.IGNORECASE)  # names of models of few steps
SAMPLES = 4  # trajectories that are scored again


def check_schedule(model: PolicyModel, config: TrainConfig) -> None:
    """Refuse a sampler of which no step draws noise: it has no actions, so nothing to train."""
    steps = config.sampling.steps
    if not trained_schedule(model, config).noisy(config.sampling.eta).any():
        raise UserError(
            f"sampling.steps ({steps}): no step of this model's sampler would draw noise, so there "
            "is nothing to train; take more"
        )


def check_guidance(model: PolicyModel, config: TrainConfig) -> None:
    """Refuse a guidance scale that the model was not made for; tell where it only seems so."""
    scale, name = config.sampling.guidance_scale, config.model.name
    model.check_guidance(scale)
    lines = model.remarks(scale)
    hint = HURRIED.search("/".join(Path(name).parts[-2:]))
    if hint and scale != 1 and not lines:
        told = f"'{name}' is called {hint[0]}: if it was distilled to few steps"
        lines = [f"model.name: {told}, it wants sampling.guidance_scale=1"]
    for line in lines:
        tqdm.write(line)


def check_features(model: PolicyModel, config: TrainConfig) -> None:
    """Refuse a model that has no features of its own where diversity is to be measured by them."""
    if config.encoder == OWN_FEATURES:
        with model.capture_features():
            pass


def prepare(model: PolicyModel, config: TrainConfig) -> None:
    """Refuse a model that this run could not train, then put on it what is trained."""
    check_schedule(model, config)
    check_guidance(model, config)
    check_features(model, config)
    make_trainable(model, config)


@torch.no_grad()
def ratio_errors(model: PolicyModel, kept: Rollout, config: TrainConfig) -> Tensor:
    """|ratio - 1| "S T" of a few stored trajectories; 0 at steps that are not trained on."""
    schedule, stored = trained_schedule(model, config), kept.log_probs.flatten(0, 1)
    samples = torch.linspace(0, len(stored) - 1, min(SAMPLES, len(stored))).long()
    errors = torch.zeros_like(stored)
    for part in trained_pairs(kept, samples).split(config.optimizer.micro_batch_size):
        sample, step = part.unbind(1)
        log_prob, _, _ = replay(model, kept, part, schedule, config)
        errors[sample, step] = ((log_prob.cpu() - stored[sample, step]).exp() - 1).abs()
    return errors[samples]


def check_replay(model: PolicyModel, kept: Rollout, config: TrainConfig) -> float:
    """The largest |ratio - 1|; where it is too large, an error that names the likely cause."""
    clip_range, half = config.method.surrogate.clip_range, config.model.dtype != "float32"
    tolerance = HALF * clip_range if half else max(TOLERANCE, clip_range / 100)
    errors = ratio_errors(model, kept, config)
    worst = errors.max().item()
    if worst <= tolerance:
        return worst
    cause = next(causes(model, kept, config, tolerance), "none of the usual ones")
    step = int(errors.amax(0).argmax()) + 1
    raise UserError(
        f"preflight: before the first update the ratio is off by {worst:.1e} at step {step} "
        f"of {errors.shape[1]}, more than {tolerance:.0e}; likely cause: {cause}"
    )


def causes(
    model: PolicyModel, kept: Rollout, config: TrainConfig, tolerance: float
) -> Iterator[str]:
    """Every cause that explains the difference, likeliest first."""

    def fits(other: TrainConfig) -> bool:
        return ratio_errors(model, kept, other).max().item() <= tolerance

    if any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in model.network.modules()):
        yield "dropout is active in the policy, which must be in eval mode"
    if not ratio_errors(model, kept, config).isfinite().all():
        yield "the policy predicts NaN or infinity"
    if not torch.equal(*(ratio_errors(model, kept, config) for _ in range(2))):
        yield "the replay is not deterministic"
    with model.reference():
        if fits(config):
            yield "the rollout was sampled from the base model, without what was trained"
    clean = replace(config.method, conditioning=CleanPrompt())
    if fits(replace(config, method=clean)):
        yield "the rollout was sampled under the clean prompt, the replay adds prompt noise"
    for guidance_scale in {1.0, 0.0} - {config.sampling.guidance_scale}:
        if fits(replace(config, sampling=replace(config.sampling, guidance_scale=guidance_scale))):
            yield f"the rollout was sampled with guidance_scale {guidance_scale}"
    at_once = replace(config.optimizer, micro_batch_size=config.sampling.batch_size)
    if fits(replace(config, optimizer=at_once)):
        yield "the batch shape: micro_batch_size and sampling.batch_size round differently"
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    if tf32 and model.device.type == "cuda":
        yield "TF32 is switched on in this process (torch.backends.*.allow_tf32)"
    half = config.model.dtype != "float32"  # which a network that is trained whole computes in
    if half or any(p.dtype != torch.float32 for p in model.network.parameters()):
        yield "the network is not in float32"

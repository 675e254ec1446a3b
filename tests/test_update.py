from dataclasses import replace

import pytest
import torch

from drift.config import load_recipe
from drift.functional.advantages import group_advantages
from drift.methods.parts import NoisedPrompt, ReferenceKL
from drift.models import load_model
from drift.rollout import rollout
from drift.update import update_policy

PROMPTS = ["a fox", "a bee"]
SMALL = [
    "method=grpo",
    "sampling.steps=4",
    "sampling.group_size=4",
    "sampling.pool_size=4",
    "sampling.prompts_per_epoch=2",
    "optimizer.updates_per_epoch=2",
]


def settings(**changes):
    config = load_recipe("menagerie", SMALL)
    method = replace(config.method, **changes.pop("method", {}))
    return replace(config, method=method, optimizer=replace(config.optimizer, **changes))


@pytest.fixture
def model(tiny_model):
    model = load_model(str(tiny_model))
    model.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    with torch.no_grad():  # as after some training: B away from 0, so that A has a gradient too
        for k, parameter in enumerate(model.trainable_parameters()):
            parameter += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(k)
            )
    return model


def kept_rollout(model, config):
    seeds = [[10 * p + g for g in range(4)] for p in range(2)]
    return rollout(
        model,
        PROMPTS,
        seeds,
        steps=config.sampling.steps,
        guidance_scale=config.sampling.guidance_scale,
        eta=config.sampling.eta,
        batch_size=8,
        conditioning=config.method.conditioning,
    )


ADVANTAGES = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 5.0]]))


def run(model, config):
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.trainable_parameters()]
    stats = update_policy(model, optimizer, kept, ADVANTAGES, config, epoch=1)
    moved = [b - p.detach() for b, p in zip(before, model.trainable_parameters(), strict=True)]
    return stats, moved


@pytest.mark.parametrize("conditioning", ["clean", "noised"])
def test_before_the_first_update_every_ratio_is_one(model, conditioning):
    changes = {"conditioning": NoisedPrompt()} if conditioning == "noised" else {}
    stats, _ = run(model, settings(method=changes, micro_batch_size=3))
    assert stats[0].max_ratio_error < 1e-6
    assert stats[0].clip_fraction == 0
    assert stats[0].grad_norm > 0
    assert stats[1].max_ratio_error > 1e-6  # the first update has moved the policy


@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_the_gradient_does_not_depend_on_the_micro_batch(model, tiny_model, micro_batch_size):
    one = settings(updates_per_epoch=1, micro_batch_size=32, max_grad_norm=1e9)
    _, expected = run(model, one)
    other = load_model(str(tiny_model))
    other.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    with torch.no_grad():
        for mine, theirs, moved in zip(
            other.trainable_parameters(), model.trainable_parameters(), expected, strict=True
        ):
            mine.copy_(theirs + moved)
    _, moved = run(
        other, replace(one, optimizer=replace(one.optimizer, micro_batch_size=micro_batch_size))
    )
    for mine, theirs in zip(moved, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_an_update_raises_the_probability_of_what_was_better(model):
    config = settings(updates_per_epoch=1)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3))
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1e-3)
    update_policy(model, optimizer, kept, ADVANTAGES, config, epoch=1)
    stats = update_policy(model, optimizer, kept, ADVANTAGES, config, epoch=1)
    # loss = -mean(A * ratio): 0 where every ratio is 1, below 0 once the better became likelier
    assert stats[0].loss < 0


def test_the_reference_kl_counts_and_pulls_back(model):
    config = settings(method={"regulariser": ReferenceKL(weight=0.5)}, updates_per_epoch=1)
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    nothing = torch.zeros_like(ADVANTAGES)
    stats = update_policy(model, optimizer, kept, nothing, config, epoch=1)
    assert stats[0].reference_kl > 0
    assert stats[0].grad_norm > 0  # advantages are 0: the gradient is the KL's alone

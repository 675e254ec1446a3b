from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from drift.errors import UserError
from drift.functional.advantages import group_advantages
from drift.methods.parts import (
    BalancedWeights,
    NoisedPrompt,
    RandomSteps,
    ReferenceKL,
    SameWeights,
    WindowSteps,
)
from drift.models import load_model
from drift.recipes import load_recipe
from drift.training.rollout import plan_steps, sample_pool
from drift.training.update import Learner, Signal, update_policy

PROMPTS = ["a fox", "a bee"]
SMALL = [
    "method=grpo",
    "sampling.steps=4",
    "sampling.group_size=4",
    "sampling.pool_size=4",
    "sampling.prompts_per_epoch=2",
    "optimizer.updates_per_epoch=2",
    "optimizer.max_grad_norm=1.0",  # the recipe's is for the shipped model's gradients
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


def learner(optimizer, config):
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Learner(optimizer, scaler, config.optimizer.micro_batch_size)


def kept_rollout(model, config):
    seeds = [[10 * p + g for g in range(4)] for p in range(2)]
    sampling = replace(config.sampling, batch_size=8)
    return sample_pool(model, PROMPTS, seeds, replace(config, sampling=sampling))


def learn(model, taught, kept, advantages, config, epoch=1):
    """An update on the steps that the config's plan has for the epoch."""
    plan = plan_steps(model.schedule(config.sampling.steps), config, len(PROMPTS), epoch)
    signal = Signal(advantages, config.method.regulariser.weight)
    return update_policy(model, taught, replace(kept, plan=plan), signal, config, epoch)


ADVANTAGES = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 5.0]]))


def run(model, config, kept=None):
    kept = kept or kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.trainable_parameters()]
    stats = learn(model, learner(optimizer, config), kept, ADVANTAGES, config)
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


@pytest.mark.parametrize("micro_batch_size", [1, 2, 8])
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
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_an_update_raises_the_probability_of_what_was_better(model):
    config = settings(updates_per_epoch=1)
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.1)
    learn(model, learner(optimizer, config), kept, ADVANTAGES, config)
    stats = learn(model, learner(optimizer, config), kept, ADVANTAGES, config)
    # loss = -mean(A * ratio): 0 where every ratio is 1, below 0 once the better became likelier
    assert stats[0].loss < -1e-7


def test_the_reference_kl_counts_and_pulls_back(model):
    config = settings(method={"regulariser": ReferenceKL(weight=0.5)}, updates_per_epoch=1)
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    nothing = torch.zeros_like(ADVANTAGES)
    stats = learn(model, learner(optimizer, config), kept, nothing, config)
    assert stats[0].reference_kl > 0
    assert stats[0].grad_norm > 0  # advantages are 0: the gradient is the KL's alone


def test_the_log_prob_gap_is_told_for_every_step(model):
    stats, _ = run(model, settings(micro_batch_size=3))
    before, after = (one.log_prob_gap for one in stats)
    assert len(before) == len(after) == 4
    assert max(before) < 1e-6
    assert all(gap > 1e-6 for gap in after)


def test_steps_that_are_not_trained_on_are_never_looked_at(model):
    config = settings(method={"timesteps": WindowSteps(size=2, every=1)}, micro_batch_size=3)
    kept = kept_rollout(model, config)
    kept.log_probs[:, :, 2:] = torch.nan  # epoch 1 trains on the first two of four
    stats, moved = run(model, config, kept)
    assert stats[0].log_prob_gap[:2] == pytest.approx([0, 0], abs=1e-6)
    assert stats[0].log_prob_gap[2:] == [None, None]
    assert all(change.isfinite().all() for change in moved)
    assert any(change.any() for change in moved)


@pytest.mark.parametrize("step", [0, 2])
def test_a_steps_weight_multiplies_its_gradient(model, step):
    window = {"timesteps": WindowSteps(size=1, every=1)}
    plain = settings(method=window | {"weighting": SameWeights()}, updates_per_epoch=1)
    balanced = settings(method=window | {"weighting": BalancedWeights()}, updates_per_epoch=1)
    kept = kept_rollout(model, plain)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    norms = [
        learn(model, learner(optimizer, config), kept, ADVANTAGES, config, step + 1)[0].grad_norm
        for config in (plain, balanced)
    ]
    weight = BalancedWeights()(model.schedule(4), plain.sampling.eta)[step].item()
    assert norms[1] == pytest.approx(weight * norms[0], rel=1e-4)
    assert weight != pytest.approx(1.0, rel=0.1)


def test_the_window_slides_from_epoch_to_epoch(model):
    config = settings(method={"timesteps": WindowSteps(size=1, every=1)}, updates_per_epoch=1)
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    for epoch, trained in [(1, 0), (2, 1), (4, 3), (5, 0)]:
        (stats,) = learn(model, learner(optimizer, config), kept, ADVANTAGES, config, epoch)
        assert [k for k, gap in enumerate(stats.log_prob_gap) if gap is not None] == [trained]


def test_a_random_subset_of_steps_is_the_same_for_a_whole_group(model):
    method = {"timesteps": RandomSteps(fraction=0.5)}
    config = settings(method=method, updates_per_epoch=4, micro_batch_size=3)
    kept = kept_rollout(model, config)
    schedule, seen = model.schedule(4), []

    def note(_, args):
        half = len(args[0]) // 2  # the other half repeats it, for guidance
        for x, t in zip(args[0][:half], args[1][:half], strict=True):
            step = schedule.timesteps.tolist().index(int(t))
            same = (kept.latents[:, :, step] == x).flatten(2).all(2)
            seen.append((*same.nonzero()[0].tolist(), step))

    model.network.register_forward_pre_hook(note)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1.0)
    chosen = []  # for each of three epochs, the two steps of each prompt
    for epoch in (1, 2, 3):
        seen.clear()
        learn(model, learner(optimizer, config), kept, ADVANTAGES, config, epoch)
        assert len(set(seen)) == len(seen) == 2 * 4 * 2  # each pair once
        steps = {(p, g): {k for q, h, k in seen if (q, h) == (p, g)} for p, g, _ in seen}
        for p in range(2):
            assert len(steps[p, 0]) == 2
            assert all(steps[p, g] == steps[p, 0] for g in range(4))
        chosen.append([steps[0, 0], steps[1, 0]])
    assert any(one != other for one, other in chosen)  # each prompt its own
    assert chosen[0] != chosen[1] or chosen[1] != chosen[2]  # each epoch anew


def test_all_of_the_steps_at_random_is_all_of_the_steps(model):
    plain = settings(updates_per_epoch=1)
    kept = kept_rollout(model, plain)
    everything = settings(method={"timesteps": RandomSteps(fraction=1.0)}, updates_per_epoch=1)
    gradients = []
    for config in (plain, everything):
        optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
        (stats,) = learn(model, learner(optimizer, config), kept, ADVANTAGES, config, epoch=1)
        gradients.append(stats.grad_norm)
    assert gradients[0] == gradients[1] > 0


@pytest.mark.parametrize("method", [{}, {"regulariser": ReferenceKL(weight=0.5)}])
def test_a_last_step_without_noise_is_taken_but_never_trained(model, method):
    model.pipe.scheduler = DDIMScheduler.from_config(
        model.pipe.scheduler.config, set_alpha_to_one=True
    )
    config = settings(method=method)
    kept = kept_rollout(model, config)
    assert (kept.log_probs[:, :, 3] == 0).all()
    assert (kept.log_probs[:, :, :3] != 0).all()
    assert kept.latents.shape[2] == 5
    stats, moved = run(model, config, kept)
    for one in stats:
        assert one.log_prob_gap[3] is None
        assert None not in one.log_prob_gap[:3]
        assert one.grad_norm > 0
    assert all(change.isfinite().all() for change in moved)


def adam(model, config, scaler=None):
    """A learner whose moments are not zero, so that a step taken by mistake would show."""
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    for parameter in model.trainable_parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    made = learner(optimizer, config)
    return replace(made, scaler=scaler) if scaler else made


def state_of(model, taught):
    moments = [v for row in taught.optimizer.state.values() for v in row.values()]
    return [t.detach().clone() for t in (*model.trainable_parameters(), *moments)]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_gradient_that_is_not_finite_is_skipped_and_leaves_every_bit(model, scaled):
    config = settings(updates_per_epoch=2)
    kept = kept_rollout(model, config)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    taught = adam(model, config, scaler)
    before = state_of(model, taught)
    advantages = ADVANTAGES.clone()
    advantages[:, :] = torch.nan
    stats = learn(model, taught, kept, advantages, config)
    assert [s.skipped for s in stats] == [True, True]
    assert taught.skipped == 2
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(model, taught), strict=True))
    if scaled:
        assert taught.scaler.get_scale() == 2.0  # halved twice
    (fine, _) = learn(model, taught, kept, ADVANTAGES, config)
    assert not fine.skipped
    assert taught.skipped == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, state_of(model, taught), strict=True))


def test_too_many_skipped_in_a_row_stop_the_run(model):
    config = settings(updates_per_epoch=2)
    kept = kept_rollout(model, config)
    taught = adam(model, config)
    taught.skipped = config.guards.skipped_updates - 2
    with pytest.raises(UserError, match="not finite 10 updates in a row"):
        learn(model, taught, kept, ADVANTAGES * torch.nan, config)


def test_a_scaled_gradient_takes_the_same_step(model, tiny_model):
    config = settings(updates_per_epoch=1)
    kept = kept_rollout(model, config)
    start = [p.detach().clone() for p in model.trainable_parameters()]
    ends = []
    for enabled in (False, True):
        with torch.no_grad():
            for parameter, value in zip(model.trainable_parameters(), start, strict=True):
                parameter.copy_(value)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        taught = replace(learner(torch.optim.SGD(model.trainable_parameters(), 1.0), config))
        taught.scaler = scaler
        learn(model, taught, kept, ADVANTAGES, config)
        ends.append([p.detach().clone() for p in model.trainable_parameters()])
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(model):
    config = settings(updates_per_epoch=1, micro_batch_size=32, max_grad_norm=1e9)
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    (whole,) = learn(model, learner(optimizer, config), kept, ADVANTAGES, config, 1)

    def exhaust(module, args):  # as a card with room for 5 rows and their unconditional twins
        if len(args[0]) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = model.network.register_forward_pre_hook(exhaust)
    taught = learner(optimizer, config)
    (halved,) = learn(model, taught, kept, ADVANTAGES, config, 1)
    hook.remove()
    assert taught.micro_batch_size == 4
    assert halved.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert halved.loss == pytest.approx(whole.loss, abs=1e-6)


def test_not_even_one_row_fits(model):
    config = settings(updates_per_epoch=1)
    kept = kept_rollout(model, config)

    def exhaust(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.network.register_forward_pre_hook(exhaust)
    taught = learner(torch.optim.SGD(model.trainable_parameters(), lr=1.0), config)
    with pytest.raises(UserError, match=r"optimizer.micro_batch_size: not even one row fits"):
        learn(model, taught, kept, ADVANTAGES, config)


def test_a_backward_pass_runs_the_hooks_by_which_gradients_are_shared(model):
    """Those that DDP and FSDP set on parameters; once for each micro-batch."""
    config = settings(updates_per_epoch=1, micro_batch_size=8)
    kept, calls = kept_rollout(model, config), []
    for parameter in model.trainable_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: calls.append(p))
    run(model, config, kept)
    assert len(calls) == len(model.trainable_parameters()) * 4  # 8 samples of 4 steps


def test_replayed_log_probabilities_are_exact_in_the_first_update(model):
    """Whatever the rollout's were rounded to."""
    plain = settings(micro_batch_size=3)
    kept = kept_rollout(model, plain)
    kept.log_probs.add_(1e-2)
    again = replace(plain, optimizer=replace(plain.optimizer, old_log_probs="replay"))
    for config, exact in [(plain, False), (again, True)]:
        optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1.0)
        first, second = learn(model, learner(optimizer, config), kept, ADVANTAGES, config)
        assert (first.max_ratio_error == first.clip_fraction == 0) == exact
        assert second.max_ratio_error > 0  # by then the policy has moved

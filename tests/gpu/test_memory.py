"""What a card's memory does: the planner's forecast, too little of it, checkpointing."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from drift.encoders import load_encoder
from drift.rewards import load_rewards
from drift.training.memory import peak_memory
from drift.training.plan import stages
from drift.training.update import Signal, trained_pairs, trial_gradient
from tests.training.test_update import ADVANTAGES, kept_rollout, learn, learner, settings

pytestmark = pytest.mark.gpu
PIXELS = 256  # more than the tiny model's own 64, so that activations outweigh the rounding


def large(config):
    return replace(config, sampling=replace(config.sampling, height=PIXELS, width=PIXELS))


@contextmanager
def no_more_than(size: float, device):
    """A card on which so many bytes may be taken beside those in use; elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    share = (torch.cuda.memory_reserved(device) + size) / total
    torch.cuda.set_per_process_memory_fraction(share)  # of the current device
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_forecast_from_one_row_and_two_holds_for_eight(policy, device, told):
    reward = load_rewards(["pickscore-tiny"], str(device))["pickscore-tiny"]
    encoder = load_encoder("dreamsim-tiny", str(device))
    for stage in stages(large(settings()), policy(), reward, encoder):
        for rows in (1, 8):
            stage.work(rows)
        one, two, eight = (peak_memory(lambda s=stage, n=n: s.work(n), device) for n in (1, 2, 8))
        forecast = one + 7 * (two - one)
        told(f"{stage.field}: forecast and measured bytes of 8 rows", [forecast, eight])
        assert forecast == pytest.approx(eight, rel=0.15), stage.field


def test_a_batch_that_does_not_fit_is_halved_and_its_gradient_stays(policy, device, told):
    model, config = policy(), large(settings(updates_per_epoch=1, micro_batch_size=32))
    kept = kept_rollout(model, config)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.0)
    found = {}

    def update(name):
        taught = learner(optimizer, config)
        (stats,) = learn(model, taught, kept, ADVANTAGES, config)
        found[name] = stats, taught.micro_batch_size

    update("warm")
    peak = peak_memory(lambda: update("whole"), device)
    with no_more_than(0.6 * peak, device):
        update("halved")
    (whole, size), (halved, fitting) = found["whole"], found["halved"]
    told("micro-batch that fits 60 % of the memory of 32", fitting)
    assert size == 32
    if device.type == "cuda":
        assert fitting < 32
    assert halved.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert halved.loss == pytest.approx(whole.loss, abs=1e-6)


def test_checkpointing_takes_less_and_computes_the_same(policy, device, told):
    config, found = large(settings()), {}
    kept = kept_rollout(policy(), config)
    for checkpointing in (False, True):
        model = policy(gradient_checkpointing=checkpointing)

        def work(model=model):
            pairs, signal = trained_pairs(kept, torch.arange(2)), Signal(ADVANTAGES)
            return trial_gradient(model, kept, signal, config, pairs)

        found[checkpointing] = work(), peak_memory(work, device)
    (plain, most), (again, less) = found[False], found[True]
    told("checkpointing: peak bytes without and with", [most, less])
    assert less < 0.7 * most
    for one, two in zip(plain, again, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)

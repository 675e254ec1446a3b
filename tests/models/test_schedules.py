"""A schedule is diffusers' DDIMScheduler's: mean, std and sample of every step, within 1e-6."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from drift.errors import UserError
from drift.models.schedules import ddim_schedule, flow_schedule

# Published configurations: SD 1.5's and 2.1's betas; what else a folder may say.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD15 = BETAS | {"steps_offset": 1, "timestep_spacing": "leading"}
VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = VELOCITY | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SAVED = {
    "sd15": PNDMScheduler(**SD15, skip_prk_steps=True, set_alpha_to_one=False),
    "sd21": DDIMScheduler(**SD15, **VELOCITY, set_alpha_to_one=False, clip_sample=False),
    "linspace": DDIMScheduler(**BETAS, timestep_spacing="linspace", set_alpha_to_one=False),
    "menagerie": DDIMScheduler(
        **BETAS, **VELOCITY, timestep_spacing="trailing", set_alpha_to_one=False
    ),
    "clean end": DDIMScheduler(**SD15, set_alpha_to_one=True),
    "euler": EulerDiscreteScheduler(**SD15),
    "euler, v": EulerDiscreteScheduler(**BETAS, **VELOCITY, timestep_spacing="trailing"),
    "zero snr": DDIMScheduler(**BETAS, **ZERO_SNR, set_alpha_to_one=False),
    "zero snr, clean end": DDIMScheduler(**BETAS, **ZERO_SNR, set_alpha_to_one=True),
    "zero snr, euler": EulerDiscreteScheduler(**BETAS, **ZERO_SNR),
}
CPU = torch.device("cpu")


def ddim(name: str, **changes) -> DDIMScheduler:
    return DDIMScheduler.from_config(SAVED[name].config, clip_sample=False, **changes)


FEW = (1, 2, 3, 7, 10, 20, 25, 37, 50)
EVERY = ("sd15", "menagerie", "zero snr")  # by these at every T, the others by the slow tests


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        *((name, range(1, 51) if name in EVERY else FEW) for name in SAVED),
        *(
            pytest.param(name, range(1, 51), marks=pytest.mark.slow)
            for name in SAVED
            if name not in EVERY
        ),
    ],
)
def test_every_step_is_diffusers_own(name, lengths):
    """T from 1 to 50, every step, three values of eta.

    Without any signal and at eta = 1 diffusers itself may draw NaN: the root of a rounding error.
    """
    scheduler = ddim(name)
    x, predicted, z = torch.randn(3, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    states, outputs = torch.cat([x, x, zero]), torch.cat([predicted, predicted, zero])
    noises = torch.cat([zero, z, one])  # mean, sample and std in one call
    for steps in lengths:
        schedule = ddim_schedule(scheduler, steps, CPU)
        assert torch.equal(schedule.timesteps, scheduler.timesteps)
        for eta in (0.2, 0.5, 1.0):
            noisy = schedule.noisy(eta).tolist()
            for k, t in enumerate(scheduler.timesteps):
                mean, std = schedule.step(x, predicted, k, eta)

                theirs = scheduler.step(outputs, t, states, eta=eta, variance_noise=noises)
                expected, drawn, spread = theirs.prev_sample.split(1)
                if expected.isnan().any() and schedule.alphas[k] == 0 and eta == 1:
                    expected = schedule.next_alphas[k].sqrt() * -predicted  # x0 is -v
                    spread = (1 - schedule.next_alphas[k]).sqrt()
                    drawn = expected + spread * z
                assert (mean - expected).abs().max() <= 1e-6
                assert (mean + std * z - drawn).abs().max() <= 1e-6
                assert (std - spread).abs().max() <= 1e-6
                assert (std > 0) == noisy[k]


@pytest.mark.parametrize("name", ["sd15", "menagerie", "linspace"])
def test_a_long_trajectory_is_diffusers_own(name):
    scheduler = ddim(name)
    x, predicted, z = torch.randn(3, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    schedule = ddim_schedule(scheduler, 999, CPU)
    for k in range(0, 999, 37):
        t = scheduler.timesteps[k]
        mean, std = schedule.step(x, predicted, k, 1.0)
        theirs = scheduler.step(predicted, t, x, eta=1.0, variance_noise=z).prev_sample
        assert (mean + std * z - theirs).abs().max() <= 1e-6


def test_trailing_steps_to_the_models_last_time_end_with_one_that_stands_still():
    schedule = ddim_schedule(ddim("menagerie"), 1000, CPU)
    assert schedule.timesteps.tolist() == list(range(999, -1, -1))
    assert torch.equal(schedule.alphas[1:], schedule.next_alphas[:-1])
    assert schedule.noisy(1.0).sum() == 999


def test_more_steps_than_a_model_has_times_are_refused():
    with pytest.raises(UserError, match="1000 times do not hold 1001 steps"):
        ddim_schedule(ddim("menagerie"), 1001, CPU)
    with pytest.raises(UserError, match="1000 times do not hold 1000 steps"):
        ddim_schedule(ddim("sd15"), 1000, CPU)  # its offset leads beyond the last time


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_final_alpha_of_one_makes_the_last_step_alone_deterministic(steps):
    schedule = ddim_schedule(ddim("clean end"), steps, CPU)
    assert schedule.noisy(1.0).tolist() == [True] * (steps - 1) + [False]
    assert schedule.next_alphas[-1] == 1


@pytest.mark.parametrize("steps", [1, 10])
def test_a_last_step_that_stands_still_is_deterministic(steps):
    schedule = ddim_schedule(ddim("sd15", steps_offset=0), steps, CPU)
    assert schedule.timesteps[-1] == 0
    assert schedule.alphas[-1] == schedule.next_alphas[-1] < 1
    assert schedule.noisy(1.0).tolist() == [True] * (steps - 1) + [False]


def test_without_eta_no_step_draws_noise():
    assert not ddim_schedule(ddim("sd15"), 5, CPU).noisy(0.0).any()


def test_a_start_without_signal_says_nothing_of_a_picture_and_sums_up_the_noise():
    # alpha 0: x is noise alone, v = -x0. The step's mean is sqrt(a_prev)·x0 at eta = 1.
    schedule = ddim_schedule(ddim("zero snr"), 4, CPU)
    assert schedule.alphas[0] == 0
    v = torch.tensor([[0.5, -2.0]])
    mean, std = schedule.step(torch.ones(1, 2), v, 0, 1.0)
    torch.testing.assert_close(mean, -v * schedule.next_alphas[0].sqrt())
    torch.testing.assert_close(std, (1 - schedule.next_alphas[0]).sqrt())
    assert schedule.sensitivity(1.0).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": "epsilon"}, "starts without any signal"),
    ],
)
def test_what_no_step_can_be_made_of_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ddim_schedule(ddim("zero snr", **changes), 4, CPU)


# --- flow models ---

# Ten steps at shift 3, as read in the peers' code: flow_grpo's, and DanceGRPO's and MixGRPO's.
SIGMAS = {
    "twice": [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.278, 0.0089, 0],
    "once": [1, 0.9643, 0.9231, 0.875, 0.8182, 0.75, 0.6667, 0.5625, 0.4286, 0.25, 0],
}


@pytest.mark.parametrize("shift", SIGMAS)
def test_sigmas_are_the_peers(shift):
    schedule = flow_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0), 10, CPU, shift=shift)
    sigmas = [*schedule.fractions.tolist(), schedule.next_sigmas[-1].item()]
    assert sigmas == pytest.approx(SIGMAS[shift], abs=6e-5)
    assert torch.equal(schedule.fractions[1:], schedule.next_sigmas[:-1])
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.fractions)
    assert schedule.noisy(0.7).tolist() == [True] * 9 + [False]
    assert not schedule.noisy(0.0).any()


def test_flux_sigmas_depend_on_the_pictures_size():
    # 512 x 512: 1,024 packed tokens, mu = 0.5 + (1024 - 256)·0.65/3840 = 0.63.
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    schedule = flow_schedule(scheduler, 6, CPU, shift="once", mu=0.63)
    expected = [1, 0.9037, 0.7897, 0.6525, 0.4842, 0.2730]
    assert schedule.fractions.tolist() == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("form", ["sde", "cps"])
def test_a_flow_schedule_steps_as_its_scheduler_without_noise(form, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = flow_schedule(scheduler, steps, CPU, form=form)
    x, generator = torch.ones(2, 4), torch.Generator().manual_seed(0)
    for k, t in enumerate(scheduler.timesteps):
        v = torch.randn(2, 4, generator=generator)
        mean, std = schedule.step(x, v, k, 0.0)
        x = scheduler.step(v, t, x).prev_sample
        torch.testing.assert_close(mean, x, rtol=0, atol=1e-6)
        assert std == 0
    noisy = schedule.noisy(0.7)
    for k in range(steps):
        assert (schedule.step(x, x, k, 0.7)[1] > 0) == noisy[k]
    assert schedule.sensitivity(0.7)[noisy].isfinite().all()

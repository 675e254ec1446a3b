"""Each cause is really brought about, on a tiny random model, and must be the one that is named."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from drift.errors import UserError
from drift.models import load_model
from drift.recipes import load_recipe
from drift.training.preflight import TOLERANCE, check_replay, check_schedule, ratio_errors
from drift.training.rollout import sample_pool

SMALL = ["method=grpo", "sampling.steps=4", "sampling.batch_size=8", "threads=1"]


def settings(*overrides):
    return load_recipe("menagerie", [*SMALL, *overrides])


def train_a_little(model, seed=0):
    """Move the adapter as an optimizer would; B starts at 0."""
    with torch.no_grad():
        for k, parameter in enumerate(model.trainable_parameters()):
            generator = torch.Generator().manual_seed(seed + k)
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def untrained(tiny_model):
    model = load_model(str(tiny_model))
    model.add_adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    return model


@pytest.fixture
def model(untrained):
    train_a_little(untrained)
    return untrained


def kept_rollout(model, config, **changes):
    seeds = [[10 * p + g for g in range(4)] for p in range(2)]
    sampling = replace(config.sampling, **changes)
    return sample_pool(model, ["a fox", "a bee"], seeds, replace(config, sampling=sampling))


def cause(model, kept, config) -> str:
    """The cause that the refusal names."""
    with pytest.raises(UserError, match="before the first update the ratio is off by") as refused:
        check_replay(model, kept, config)
    assert "\n" not in str(refused.value)
    return str(refused.value).split("likely cause: ")[1]


@pytest.mark.parametrize(
    ("method", "micro_batch_size"), [("grpo", 50), ("drift", 3), ("drift-noise-test", 8)]
)
def test_a_clean_run_passes_and_nothing_is_touched(model, method, micro_batch_size):
    config = settings(f"method={method}", f"optimizer.micro_batch_size={micro_batch_size}")
    kept = kept_rollout(model, config)
    before = [p.detach().clone() for p in model.trainable_parameters()]
    assert check_replay(model, kept, config) <= 1e-6
    assert ratio_errors(model, kept, config).shape == (4, 4)  # 4 of the 8 trajectories, all steps
    for parameter, old in zip(model.trainable_parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)


def test_active_dropout_is_named(model):
    config = settings()
    kept = kept_rollout(model, config)
    model.network.train()
    check_replay(model, kept, config)  # train mode alone does no harm: every p is 0
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    assert cause(model, kept, config).startswith("dropout is active")
    model.network.eval()
    check_replay(model, kept, config)


def test_an_adapter_that_the_rollout_did_not_have_is_named(untrained):
    config = settings()
    kept = kept_rollout(untrained, config)
    train_a_little(untrained)
    assert cause(untrained, kept, config).startswith("the rollout was sampled from the base model")


def test_a_rollout_of_the_reference_model_is_named(model):
    config = settings()
    with model.reference():
        kept = kept_rollout(model, config)
    assert cause(model, kept, config).startswith("the rollout was sampled from the base model")


def test_an_adapter_trained_since_is_refused_though_no_trial_can_tell(model):
    config = settings()
    kept = kept_rollout(model, config)
    train_a_little(model, seed=99)
    assert cause(model, kept, config) == "none of the usual ones"


def test_prompt_noise_that_the_rollout_did_not_have_is_named(model):
    clean, noised = settings(), settings("method.conditioning.kind=noised")
    expected = "the rollout was sampled under the clean prompt, the replay adds prompt noise"
    assert cause(model, kept_rollout(model, clean), noised) == expected
    assert cause(model, kept_rollout(model, noised), clean) == "none of the usual ones"


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_another_guidance_is_named(model, guidance_scale):
    config = settings("sampling.guidance_scale=2")
    kept = kept_rollout(model, config, guidance_scale=guidance_scale)
    expected = f"the rollout was sampled with guidance_scale {guidance_scale}"
    assert cause(model, kept, config) == expected


def test_a_network_that_is_not_deterministic_is_named(model):
    config = settings()
    kept = kept_rollout(model, config)
    model.network.register_forward_hook(lambda _, args, out: (out[0] + torch.randn_like(out[0]),))
    assert cause(model, kept, config) == "the replay is not deterministic"


def test_half_precision_is_named(model):
    config = settings()
    kept = kept_rollout(model, config)
    for parameter in model.trainable_parameters():
        parameter.data = parameter.data.bfloat16()
    assert cause(model, kept, config) == "the network is not in float32"


def test_a_broken_adapter_is_named(model):
    config = settings()
    kept = kept_rollout(model, config)
    with torch.no_grad():
        model.trainable_parameters()[0].fill_(torch.nan)
    assert cause(model, kept, config) == "the policy predicts NaN or infinity"


def test_rounding_of_another_batch_shape_is_let_pass_below_a_hundredth_of_the_clip_range(model):
    # The last step's std is 0.2 of what it is at eta = 1, and the log-prob that much more touchy.
    small = ["sampling.eta=0.2", "optimizer.micro_batch_size=3"]
    loose, tight = settings(*small), settings(*small, "method.surrogate.clip_range=1e-5")
    kept = kept_rollout(model, loose)
    off = ratio_errors(model, kept, loose).max().item()
    if off <= TOLERANCE:
        pytest.skip("this machine rounds alike for both batch shapes")
    assert check_replay(model, kept, loose) == off < 2e-5  # clip_range 2e-3
    assert cause(model, kept, tight).startswith("the batch shape: micro_batch_size and")


def test_the_step_that_is_off_is_told(model):
    config = settings()
    kept = kept_rollout(model, config)
    kept.log_probs[0, 0, 2] += 1e-3
    with pytest.raises(UserError, match=r"off by 1.0e-03 at step 3 of 4, more than 2e-05"):
        check_replay(model, kept, config)


def test_a_last_step_without_noise_is_not_looked_at(model):
    model.pipe.scheduler = DDIMScheduler.from_config(
        model.pipe.scheduler.config, set_alpha_to_one=True
    )
    config = settings()
    kept = kept_rollout(model, config)
    kept.log_probs[:, :, 3] = torch.nan
    assert (ratio_errors(model, kept, config)[:, 3] == 0).all()
    assert check_replay(model, kept, config) <= 1e-6


def test_a_sampler_without_any_noise_is_refused_by_its_field(model):
    check_schedule(model, settings("sampling.steps=1"))  # final alpha below 1: even this is noisy
    model.pipe.scheduler = DDIMScheduler.from_config(
        model.pipe.scheduler.config, set_alpha_to_one=True
    )
    check_schedule(model, settings("sampling.steps=2"))
    with pytest.raises(UserError, match=r"sampling.steps \(1\): .* nothing to train"):
        check_schedule(model, settings("sampling.steps=1"))

"""The average of the weights: what it is, who gets it, and that training does not notice it."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.average import TRAINED, averaged, load_trained, open_average, save_trained
from drift.training.loop import train
from drift.training.policy import load_policy
from drift.training.tracking import LIVE, read_metrics

LORA = "pytorch_lora_weights.safetensors"


def test_each_update_moves_the_average_by_one_minus_the_decay():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = open_average([parameter], decay=0.5)
    for value in (2.0, 4.0, 8.0):
        parameter.data.fill_(value)
        average.step([parameter])
    # The first update is taken whole; then the decay is 2 / 11 at most, and then 3 / 12.
    second = 2 / 11 * 2 + 9 / 11 * 4
    assert average.shadow_params[0].item() == pytest.approx(0.25 * second + 0.75 * 8)
    with averaged(average, [parameter]):
        assert parameter.item() == average.shadow_params[0].item()
    assert parameter.item() == 8.0


def test_no_decay_is_no_average():
    assert open_average([nn.Parameter(torch.ones(1))], decay=0.0) is None


def test_an_average_goes_on_from_what_was_saved(tmp_path):
    def go(average, parameter, values):
        for value in values:
            parameter.data.fill_(value)
            average.step([parameter])

    whole = nn.Parameter(torch.zeros(2))
    through = open_average([whole], decay=0.9)
    go(through, whole, range(8))
    half = nn.Parameter(torch.zeros(2))
    before = open_average([half], decay=0.9)
    go(before, half, range(5))
    save_trained(before, [half], tmp_path)
    again = nn.Parameter(before.shadow_params[0].clone())  # as the averaged weights are loaded
    after = open_average([again], decay=0.9)
    load_trained(after, [again], tmp_path)
    assert torch.equal(again, half)
    go(after, again, range(5, 8))
    assert torch.equal(after.shadow_params[0], through.shadow_params[0])


@pytest.fixture
def config(tiny_model, tmp_path):
    def build(name: str, *overrides: str):
        small = [
            "epochs=2",
            "checkpoint_every=1",
            "threads=1",
            "live.every=1",
            "sampling.steps=3",
            "sampling.prompts_per_epoch=2",
            "sampling.pool_size=4",
            "sampling.group_size=2",
            "optimizer.updates_per_epoch=2",
            "optimizer.learning_rate=0.01",
            "model.lora_rank=2",
            "method=grpo",
            f"model.name={tiny_model}",
            f"output={tmp_path / name}",
        ]
        return load_recipe("menagerie", [*small, *overrides])

    return build


def saved(run, name=LORA, epoch=2):
    return load_file(run / f"checkpoints/step-{epoch:06d}" / name)


def test_training_is_the_same_and_checkpoints_hold_the_average(config):
    plain = train(config("plain"), progress=False)
    run = train(config("ema", "optimizer.ema=0.9"), progress=False)
    trained, mean, last = saved(run, TRAINED), saved(run), saved(plain)
    assert trained.pop("updates") == 4
    live = load_policy(config("ema"), run / "checkpoints/step-000002").trainable_parameters()
    raw = load_policy(config("plain"), plain / "checkpoints/step-000002").trainable_parameters()
    assert all(torch.equal(trained[str(k)], p) for k, p in enumerate(raw))
    assert not any(torch.equal(a, b) for a, b in zip(live, raw, strict=True))
    assert mean.keys() == last.keys()
    assert not (plain / "checkpoints/step-000002" / TRAINED).exists()
    rewards = [[line["reward_mean"] for line in read_metrics(r)] for r in (plain, run)]
    assert rewards[0] == rewards[1]
    looks = [read_metrics(r, LIVE) for r in (plain, run)]
    assert looks[0][0]["reward"] == looks[1][0]["reward"]  # before the first update
    assert looks[0][-1]["reward"] != looks[1][-1]["reward"]  # of the average


def test_a_resumed_run_with_an_average_is_the_uninterrupted_one(config):
    whole = train(config("whole", "optimizer.ema=0.8", "epochs=3"), progress=False)
    train(config("parts", "optimizer.ema=0.8", "epochs=1"), progress=False)
    parts = train(config("parts", "optimizer.ema=0.8", "epochs=3"), resume=True, progress=False)
    for name in (LORA, TRAINED, "optimizer.safetensors"):
        one, two = (saved(run, name, epoch=3) for run in (whole, parts))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("decay", "told"),
    [("1.0", "1 is refused: less than 1"), ("-0.1", "at least 0"), ("2", "less than 1")],
)
def test_a_decay_that_is_none_is_refused(config, decay, told):
    with pytest.raises(UserError, match=rf"optimizer\.ema: .*{told}$"):
        config("run", f"optimizer.ema={decay}")

from dataclasses import replace

import pytest

from drift.config import (
    load_recipe,
    load_run_config,
    read_prompts,
    recipe_names,
    to_yaml,
)
from drift.errors import UserError
from drift.methods import METHODS
from drift.methods.parts import NoisedPrompt, NoShaping, RandomSubset, RewardContrasted


def test_drift_is_grpo_with_three_slots_replaced():
    grpo, drift = METHODS["grpo"](), METHODS["drift"]()
    assert drift != grpo
    back = replace(
        drift, selection=grpo.selection, conditioning=grpo.conditioning, shaping=grpo.shaping
    )
    assert back == grpo


def test_the_method_changes_without_losing_what_belongs_to_the_scale():
    drift = load_recipe("menagerie", [])
    grpo = load_recipe("menagerie", ["method=grpo"])
    assert grpo.method.surrogate == drift.method.surrogate
    assert isinstance(grpo.method.shaping, NoShaping)
    assert isinstance(grpo.method.selection, RandomSubset)
    assert (grpo.method_name, grpo.output) == ("grpo", "runs/menagerie-grpo")


def test_overrides_reach_into_the_method():
    config = load_recipe(
        "menagerie", ["method.conditioning.scale=0.1", "method.selection.kind=contrasted"]
    )
    assert isinstance(config.method.conditioning, NoisedPrompt)
    assert config.method.conditioning.scale == 0.1
    assert config.method.selection == RewardContrasted()


def test_what_the_method_says_goes_before_the_scale():
    config = load_recipe("menagerie", ["method.surrogate.clip_range=1e-3"])
    assert config.method.surrogate.clip_range == 0.001


def test_a_run_reads_back_what_was_written(tmp_path):
    for name in recipe_names():
        config = load_recipe(name, [])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        assert load_run_config(tmp_path) == config


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("bogus=1", "bogus"),
        ("sampling.bogus=1", "sampling.bogus"),
        ("epochs=many", "epochs"),
        ("epochs=0", "epochs"),
        ("sampling=3", "sampling"),
        ("sampling.group_size=30", "group_size (30) is larger than pool_size (20)"),
        ("sampling.group_size=1", "group_size must be at least 2"),
        ("sampling.eta=0", "eta must lie in (0, 1]"),
        ("optimizer.learning_rate=-1", "learning_rate must be positive"),
        ("optimizer.updates_per_epoch=7", "updates_per_epoch (7)"),
        ("method=foo", "there is no 'foo'; known are grpo, drift"),
        ("method.conditioning.tau1=2", "tau1 (2.0) must be below tau2"),
        ("method.shaping.typo=1", "method.shaping.diversity.typo"),
        ("method.selection.kind=best", "'concentrated'"),
        ("parts.typo={}", "there is no part 'typo'"),
        ("epochs", "is not an override"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it(override, named):
    with pytest.raises(UserError) as refused:
        load_recipe("menagerie", [override])
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(UserError, match="shipped are .*menagerie"):
        load_recipe("nope", [])


def test_prompt_lists():
    everything = read_prompts("animals")
    assert len(everything) == 45
    train, held_out = read_prompts("menagerie-train"), read_prompts("menagerie-heldout")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(everything)


def test_bad_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    with pytest.raises(UserError, match="no prompt file"):
        read_prompts(str(file))
    file.write_text("\n  \n")
    with pytest.raises(UserError, match="is empty"):
        read_prompts(str(file))
    file.write_text("a fox\na fox\n")
    with pytest.raises(UserError, match="'a fox' more than once"):
        read_prompts(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_prompts(str(file))

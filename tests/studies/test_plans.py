from pathlib import Path

import pytest

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.studies.plans import STUDIES, WORLDS, plan_runs
from drift.training.costs import cost, judged_images


def planned(name="table1", world="menagerie", budget="small", seeds=2, overrides=()):
    return plan_runs(name, world, budget, seeds, Path("studies"), list(overrides))


def test_table1_is_every_method_on_every_reward_with_every_seed():
    runs = planned()
    assert len(runs) == 4 * 2 * 2
    assert len({run.folder for run in runs}) == 16
    assert runs[0].folder == Path("studies/menagerie-small/pickscore-tiny/drift-seed42")
    assert runs[0].name == "pickscore-tiny-drift-seed42"
    assert [run.config.seed for run in runs] == [42] * 8 + [43] * 8
    assert {run.config.method_name for run in runs} == {"drift", "ddpo", "grpo", "grpo-kl"}
    for run in runs:  # what differs is the method, the reward and the seed
        assert run.config.images_sampled == runs[0].config.images_sampled
        assert run.config.evaluation == runs[0].config.evaluation


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_planned_in_every_world(study, world):
    for budget in WORLDS[world].budgets:
        runs = planned(study, world, budget, seeds=1)
        assert len(runs) == len(STUDIES[study].methods) * STUDIES[study].rewards
        assert {run.config.evaluation.rewards for run in runs} == {WORLDS[world].rewards}


def test_studies_share_their_runs():
    folders = {run.folder for run in planned("table1")}
    assert {run.folder for run in planned("frontier")} == folders
    assert {run.folder for run in planned("collapse")} < folders


def test_the_papers_budget_is_the_recipe_as_it_is():
    (run, *_) = planned("table1", "sd15", "paper", seeds=1)
    recipe = load_recipe("sd15-pickscore", [])
    assert run.config.sampling == recipe.sampling
    assert run.config.optimizer == recipe.optimizer
    assert run.config.epochs == recipe.epochs


def test_overrides_reach_every_run():
    runs = planned(overrides=["epochs=3", "seed=7"])
    assert {run.config.epochs for run in runs} == {3}
    assert {run.config.seed for run in runs} == {7, 8}


def test_cost_by_hand():
    small = ["epochs=3", "sampling.prompts_per_epoch=2", "sampling.pool_size=4"]
    small += ["sampling.group_size=2", "sampling.steps=5", "optimizer.updates_per_epoch=1"]
    grpo = cost(load_recipe("menagerie", [*small, "method=grpo"]))
    assert grpo.images == grpo.reward_calls == 3 * 2 * 4
    # 24 images and 12 kept ones, forward and backward, of 5 steps, each with and without prompt.
    assert grpo.network_evaluations == 2 * (24 * 5 + 3 * 12 * 5)
    # The KL's reference is one more forward pass.
    kl = cost(load_recipe("menagerie", [*small, "method=grpo-kl"]))
    assert kl.network_evaluations == 2 * (24 * 5 + 4 * 12 * 5)
    one = cost(load_recipe("menagerie", [*small, "method=grpo", "sampling.guidance_scale=1"]))
    assert one.network_evaluations == grpo.network_evaluations / 2
    # Epochs 2, 4 and the last are judged: 15 held-out animals, of which 2 images here.
    judging = ["epochs=5", "checkpoint_every=2", "evaluation.images_per_prompt=2"]
    assert judged_images(load_recipe("menagerie", judging)) == 3 * 15 * 2
    # The first half of the steps, two of five, is replayed; and the first epoch alone.
    config = load_recipe("menagerie", [*small, "method=grpo", "method.timesteps.kind=first"])
    half = cost(config, epochs=1)
    assert half.network_evaluations == 2 * (8 * 5 + 3 * 4 * 2)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "table2"}, "study: there is no 'table2'; known are table1, sampling"),
        ({"world": "moon"}, "world: there is no 'moon'; known are menagerie, sd15"),
        ({"budget": "huge"}, "budget: there is no 'huge'; known are small, medium, paper"),
        ({"seeds": 0}, "seeds: at least 1, not 0"),
        ({"overrides": ["epochs=no"]}, "epochs"),
    ],
)
def test_what_is_not_there_is_named(wrong, told):
    with pytest.raises(UserError, match=told):
        planned(**wrong)

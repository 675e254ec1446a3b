from dataclasses import fields, replace

import pytest
import torch

from drift.methods import ABLATIONS, METHODS
from drift.methods.parts import (
    AllSteps,
    BatchAdvantage,
    BufferedAdvantage,
    CleanPrompt,
    ClippedSurrogate,
    DiversityShaping,
    GroupAdvantage,
    Method,
    NoisedPrompt,
    NoRegulariser,
    NoShaping,
    RandomSubset,
    ReferenceKL,
    RewardConcentrated,
    RewardContrasted,
    SameWeights,
    Shaped,
)
from drift.types import Group


def differing(one: Method, other: Method) -> set[str]:
    """The slots in which two methods differ."""
    return {f.name for f in fields(Method) if getattr(one, f.name) != getattr(other, f.name)}


def test_grpo_is_the_plain_part_of_every_slot():
    assert METHODS["grpo"]() == Method(
        conditioning=CleanPrompt(),
        selection=RandomSubset(),
        shaping=NoShaping(),
        advantage=GroupAdvantage(coupled=False),
        surrogate=ClippedSurrogate(clip_range=1e-4),
        regulariser=NoRegulariser(),
        timesteps=AllSteps(),
        weighting=SameWeights(),
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddpo", {"advantage": BatchAdvantage(limit=5.0)}),
        ("ddpo-buffered", {"advantage": BufferedAdvantage(buffer_size=16, min_count=16)}),
        ("grpo-kl", {"regulariser": ReferenceKL(weight=0.001)}),
        (
            "drift",
            {
                "selection": RewardConcentrated(),
                "conditioning": NoisedPrompt(
                    scale=0.05, tau1=0.4, tau2=1.0, mix=1.0, train=True, test=False
                ),
                "shaping": DiversityShaping(weight=0.5, upper=1.0, gamma=1.0),
            },
        ),
    ],
)
def test_every_other_method_is_grpo_with_some_slots_replaced(name, changes):
    method = METHODS[name]()
    assert method == replace(METHODS["grpo"](), **changes)
    assert differing(method, METHODS["grpo"]()) == set(changes)


@pytest.mark.parametrize(
    ("name", "base", "slot", "part"),
    [
        ("drift-contrasted", "drift", "selection", RewardContrasted()),
        ("drift-random", "drift", "selection", RandomSubset()),
        ("drift-noise-both", "drift", "conditioning", NoisedPrompt(train=True, test=True)),
        ("drift-noise-test", "drift", "conditioning", NoisedPrompt(train=False, test=True)),
        ("drift-noise-none", "drift", "conditioning", CleanPrompt()),
        ("drift-coupled", "drift", "advantage", GroupAdvantage(coupled=True)),
        ("drift-sampling-only", "grpo", "selection", RewardConcentrated()),
        ("drift-prompting-only", "grpo", "conditioning", NoisedPrompt()),
        ("drift-shaping-only", "grpo", "shaping", DiversityShaping()),
    ],
)
def test_every_ablation_changes_the_one_slot_it_names(name, base, slot, part):
    method = ABLATIONS[name]()
    assert differing(method, METHODS[base]()) == {slot}
    assert getattr(method, slot) == part
    assert METHODS[name] is ABLATIONS[name]


def test_no_ablation_is_left_out_above():
    assert set(ABLATIONS) == {
        "drift-contrasted",
        "drift-random",
        "drift-noise-both",
        "drift-noise-test",
        "drift-noise-none",
        "drift-coupled",
        "drift-sampling-only",
        "drift-prompting-only",
        "drift-shaping-only",
    }
    assert set(METHODS) - set(ABLATIONS) == {"ddpo", "ddpo-buffered", "grpo", "grpo-kl", "drift"}


def test_the_four_prompt_noise_studies_are_all_four_switches():
    names = ("drift-noise-both", "drift", "drift-noise-test", "drift-noise-none")
    parts = [METHODS[name]().conditioning for name in names]
    noised = [(p.in_training() != CleanPrompt(), p.at_test() != CleanPrompt()) for p in parts]
    assert noised == [(True, True), (True, False), (False, True), (False, False)]


def test_drift_with_all_parts_off_is_grpo():
    off = replace(
        METHODS["drift"](),
        selection=RandomSubset(),
        conditioning=CleanPrompt(),
        shaping=NoShaping(),
    )
    assert off == METHODS["grpo"]()


def test_ddpo_and_grpo_differ_only_across_prompts():
    rewards = torch.tensor([[0.0, 1.0, 5.0], [7.0, 7.0, 8.0]])
    nothing = torch.zeros_like(rewards)

    def total(name, rows):
        advantage = METHODS[name]().advantage
        prompts = ["a fox", "a bee"][: len(rewards[rows])]
        group = Group(prompts, rewards[rows], nothing[rows][..., None], 1, 1)
        return advantage(group, Shaped(nothing[rows], 0.0), {})[0].total

    assert torch.equal(total("ddpo", slice(0, 1)), total("grpo", slice(0, 1)))
    assert not torch.equal(total("ddpo", slice(0, 2)), total("grpo", slice(0, 2)))


def test_every_method_is_made_anew():
    for make in METHODS.values():
        assert make() == make()
        assert make() is not make()

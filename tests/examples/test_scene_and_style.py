import pytest
import torch

from drift.methods.parts import CleanPrompt
from drift.models import load_model
from drift.recipes import load_recipe, read_fields
from drift.rewards import load_reward
from drift.training.loop import train
from drift.training.rollout import draw_by
from drift.training.scoring import score
from drift.training.tracking import read_metrics
from tests.training.test_loop import SMALL

FILE, NAME = "examples/scenes.jsonl", "examples.scene_and_style:as_asked"


def test_pictures_as_asked_are_rewarded_and_others_are_not():
    """The shipped model draws what the fields ask for, where a prompt says so."""
    prompt, told = next(iter(read_fields(FILE).items()))
    assert (prompt, told) == ("a cat", {"scene": "snow", "style": "noto"})
    images = draw_by(
        load_model("menagerie/model"),
        ["a cat in the snow, noto style"],
        [[0, 1]],
        {"steps": 8, "guidance_scale": 5.0, "eta": 0.0},
        batch_size=2,
        conditioning=CleanPrompt(),
    ).images

    def mean(prompt="a cat", **fields):
        return score(load_reward(NAME, fields={prompt: fields}), images, [prompt]).mean().item()

    assert mean(scene="snow", style="noto") > 0.9
    assert mean(scene="desert", style="noto") == pytest.approx(0.5, abs=0.1)
    assert mean(scene="desert", style="twemoji") < 0.1
    assert mean("a dog", scene="snow", style="noto") < 0.1


def test_it_trains(tiny_model, tmp_path):
    own = [f"reward={NAME}", f"prompts={FILE}", f"model.name={tiny_model}", "evaluation.prompts="]
    more = [f"output={tmp_path / 'run'}", "epochs=1"]
    run = train(load_recipe("menagerie-drift", [*SMALL, *own, *more]), progress=False)
    rewards = [line["reward_mean"] for line in read_metrics(run)]
    assert all(0 < reward < 1 for reward in rewards)
    assert torch.tensor([line["reward_std"] for line in read_metrics(run)]).min() > 0

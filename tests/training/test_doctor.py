import re

import huggingface_hub.constants
import pytest
from diffusers import DDIMScheduler, UNet2DConditionModel

from drift.cli import main
from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.doctor import examine

SMALL = [
    "optimizer.updates_per_epoch=2",
    "threads=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "sampling.batch_size=4",
    "optimizer.micro_batch_size=4",
    "model.lora_rank=2",
]


@pytest.fixture
def told(tiny_model):
    """Examine the Menagerie's recipe with the tiny model; returns (could it start, the lines)."""

    def examined(*overrides: str, model=tiny_model):
        lines = []
        config = load_recipe("menagerie", [*SMALL, f"model.name={model}", *overrides])
        return examine(config, lines.append), lines

    return examined


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """As with HF_HUB_OFFLINE=1 and an empty cache; the library reads both when it is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def line_of(lines: list[str], name: str) -> str:
    """The one line that begins with this name."""
    (found,) = [line for line in lines if line.split()[0] == name]
    assert "\n" not in found
    return found


@pytest.mark.parametrize("method", ["drift", "grpo-kl", "drift-noise-test"])
def test_a_run_that_could_start_is_told_what_it_costs(told, method):
    fine, lines = told(f"method={method}")
    assert fine
    assert "GiB memory free" in line_of(lines, "machine")
    assert line_of(lines, "method").endswith(method)
    assert line_of(lines, "epoch").endswith("2 prompts x 4 candidates = 8 sampled, 4 kept")
    assert line_of(lines, "updates").endswith("2 an epoch, of 2 samples x 3 steps")
    assert line_of(lines, "batches").endswith(
        "4 images sampled at once, 8 decoded, 64 scored; 4 pairs trained on"
    )
    assert line_of(lines, "reward").endswith("pickscore-tiny")
    assert line_of(lines, "encoder").endswith("dreamsim-tiny")
    assert line_of(lines, "dtype").endswith("float32")
    worst = re.search("ratio 1 to (.*) at every step", line_of(lines, "preflight"))[1]
    assert float(worst) <= 1e-6
    seconds = re.search(
        r"about (\S+) s an epoch \(sampling (\S+), scoring (\S+), update (\S+)\)",
        line_of(lines, "time"),
    )
    total, *stages = map(float, seconds.groups())
    assert sum(stages) == pytest.approx(total, abs=0.21)  # each is rounded to 0.1
    assert "for 60 epochs" in line_of(lines, "time")
    assert re.search(r"about \d+\.\d GiB", line_of(lines, "memory"))


def test_without_an_encoder(told):
    fine, lines = told("method=grpo", "encoder=")
    assert fine
    assert line_of(lines, "encoder").endswith("none")


def test_looks_are_told_and_cost(told):
    fine, lines = told("live.every=5", "live.prompts_count=3", "live.encoder=vae")
    assert fine
    assert line_of(lines, "live").endswith("vae")
    told_of = line_of(lines, "looks")
    assert told_of.endswith("of 24 images; one every 5 epochs and one of every checkpoint")
    assert float(re.search(r"about (\S+) s each", told_of)[1]) > 0


def test_the_policys_own_features_are_tried(told, tiny_model, tmp_path):
    fine, lines = told("encoder=policy")
    assert fine
    assert line_of(lines, "encoder").endswith("policy")
    fine, lines = told("encoder=policy", model=without_middle(tiny_model, tmp_path))
    assert not fine
    assert "needs a UNet with a middle block" in line_of(lines, "FAILED")


def without_middle(tiny_model, folder):
    """The tiny model with a UNet that has no middle block."""
    for part in tiny_model.iterdir():
        if part.name != "unet":
            (folder / part.name).symlink_to(part)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    settings = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    UNet2DConditionModel(**settings | {"mid_block_type": None}).save_pretrained(folder / "unet")
    return folder


def test_every_missing_part_is_named_and_nothing_is_tried(told, offline, tmp_path):
    fine, lines = told("reward=pickscore", model=tmp_path / "nowhere")
    assert not fine
    assert "model.name: there is no file or folder" in line_of(lines, "model")
    assert "MISSING" in line_of(lines, "reward")
    assert "yuvalkirstain/PickScore_v1" in line_of(lines, "reward")
    assert line_of(lines, "encoder").endswith("dreamsim-tiny")  # this one is there
    assert "not run: weights are missing" in line_of(lines, "preflight")
    assert not [line for line in lines if line.startswith(("time", "memory"))]


def test_an_unknown_reward_is_told_before_anything_is_sampled(told):
    fine, lines = told("reward=2*nonsense")
    assert not fine
    assert "there is no 'nonsense'; known are pickscore" in line_of(lines, "reward")
    assert not [line for line in lines if line.startswith(("time", "memory"))]


@pytest.mark.parametrize("recipe", ["sd15-pickscore", "sd15-hpsv2"])
def test_the_papers_recipes_without_their_weights(recipe, offline, capsys):
    assert main(["doctor", recipe]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    for part in ("model", "reward", "encoder"):
        assert "MISSING" in line_of(lines, part)
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in line_of(lines, "model")
    assert line_of(lines, "epoch").endswith("16 prompts x 16 candidates = 256 sampled, 128 kept")
    assert line_of(lines, "updates").endswith("4 an epoch, of 32 samples x 50 steps")
    assert line_of(lines, "prompts").endswith("45 in animals")
    assert err == "drift: error: this run could not start; see above\n"


def test_the_command_says_and_writes_nothing_more(tiny_model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "smoke", *SMALL, f"model.name={tiny_model}"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("memory")
    assert not err
    assert not list(tmp_path.iterdir())


def with_final_alpha_one(tiny_model, folder):
    """The tiny model with a scheduler whose last step draws no noise."""
    for part in tiny_model.iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    scheduler = DDIMScheduler.from_pretrained(tiny_model / "scheduler", set_alpha_to_one=True)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def test_a_last_step_without_noise_is_left_out_of_the_trial(told, tiny_model, tmp_path):
    model = with_final_alpha_one(tiny_model, tmp_path)
    fine, lines = told("optimizer.micro_batch_size=50", model=model)
    assert fine
    assert line_of(lines, "preflight")


def test_what_would_fail_is_told_and_fails_nothing(told, tiny_model, tmp_path):
    model = with_final_alpha_one(tiny_model, tmp_path)
    fine, lines = told("sampling.steps=1", model=model)
    assert not fine
    assert "sampling.steps (1)" in line_of(lines, "FAILED")
    fine, lines = told("sampling.steps=1001")
    assert not fine
    assert "1000 times do not hold 1001 steps" in line_of(lines, "FAILED")


def test_cut_prompts_are_told(told, tmp_path):
    (tmp_path / "long.txt").write_text("a fox\n" + "a cat " * 30)
    fine, lines = told(f"prompts={tmp_path / 'long.txt'}")
    assert fine
    assert "cuts 1 of 2 at 24 tokens" in line_of(lines, "prompts:")


def test_a_reward_is_tried_with_the_fields_of_the_runs_prompts(told, tmp_path, monkeypatch):
    (tmp_path / "looked_up.py").write_text(
        "def needs(images, prompts, metadata):\n"
        "    return [m['count'] + float(x.mean()) for m, x in zip(metadata, images)]\n"
    )
    (tmp_path / "counts.jsonl").write_text('{"prompt": "a fox", "count": 2}\n{"prompt": "a cat"}')
    monkeypatch.chdir(tmp_path)
    fine, lines = told("reward=looked_up:needs", "prompts=counts.jsonl")
    assert not fine
    failed = line_of(lines, "FAILED")
    assert "looked_up:needs raised KeyError: 'count' for 'a cat', in looked_up.py line 2" in failed
    (tmp_path / "counts.jsonl").write_text('{"prompt": "a fox", "count": 2}')
    assert told("reward=looked_up:needs", "prompts=counts.jsonl")[0]


def test_bad_prompts_are_refused(told):
    with pytest.raises(UserError, match="no prompt file or list 'nothing'"):
        told("prompts=nothing")


def test_a_judge_that_is_not_known_is_told_beside_the_parts(told):
    fine, lines = told("evaluation.rewards=nope")
    assert not fine
    assert "evaluation.rewards: there is no 'nope'" in line_of(lines, "evaluation")
    fine, lines = told()
    assert (
        line_of(lines, "evaluation")
        == "evaluation  pickscore-tiny, hpsv2-tiny, dreamsim-tiny, clip-tiny"
    )

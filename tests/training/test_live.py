import json
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drift.cli import main
from drift.config import LiveConfig
from drift.errors import UserError
from drift.files.manifest import seal
from drift.functional.diversity import mean_pairwise_distance
from drift.methods.parts import CleanPrompt
from drift.recipes import load_recipe, read_prompts
from drift.training import checkpoint
from drift.training.checkpoint import list_checkpoints
from drift.training.live import Live, alarm, open_live, prune, stops, undisturbed
from drift.training.loop import train
from drift.training.policy import load_policy
from drift.training.rollout import rollout
from drift.training.tracking import LIVE, read_metrics
from drift.types import StepPlan

SMALL = [
    "method=grpo",
    "epochs=3",
    "checkpoint_every=3",
    "threads=1",
    "sampling.steps=2",
    "sampling.prompts_per_epoch=1",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "model.lora_rank=2",
    "evaluation.steps=2",
    "live.every=1",
    "live.prompts_count=2",
    "live.images_per_prompt=3",
]


@pytest.fixture
def config(tiny_model, tmp_path):
    def build(name: str = "run", *overrides: str):
        own = [f"model.name={tiny_model}", f"output={tmp_path / name}"]
        return load_recipe("menagerie", [*SMALL, *own, *overrides])

    return build


def timeless(run, name):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run, name)]


# --- what is looked at ---


def test_the_prompts_are_spread_over_the_evaluations(config, tmp_path):
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    for count, expected in [(1, "a"), (2, "ac"), (3, "abd"), (5, "abcde"), (9, "abcde")]:
        asked = [f"evaluation.prompts={tmp_path / 'five.txt'}", f"live.prompts_count={count}"]
        opened = open_live(config("run", *asked), "cpu", None)
        assert opened.settings["prompts"] == list(expected)
    no_others = open_live(config("run", "evaluation.prompts=", "live.prompts_count=1"), "cpu", None)
    assert no_others.settings["prompts"] == read_prompts("menagerie-train")[:1]


def test_the_alarms_encoder_is_one_that_training_does_not_reward(config):
    assert config().live_encoder == "clip-tiny"  # of dreamsim-tiny, which trains, and clip-tiny
    assert config("run", "live.encoder=vae").live_encoder == "vae"
    assert config("run", "evaluation.encoders=").live_encoder == "vae"
    assert config("run", "encoder=policy").live_encoder == "dreamsim-tiny"
    own = torch.nn.Identity()
    assert list(open_live(config(), "cpu", own).encoders) == ["dreamsim-tiny", "clip-tiny"]
    shared = open_live(config("run", "live.encoder=dreamsim-tiny"), "cpu", own)
    assert shared.encoders == {"dreamsim-tiny": own}
    assert open_live(config("run", "live.every=0"), "cpu", own) is None


def test_a_look_is_the_evaluations_sampling_of_the_present_weights(config, monkeypatch, tmp_path):
    """Reward and diversity of the first and the last look, worked out beside it."""
    run = train(config(), progress=False)
    base, *_, last = read_metrics(run, LIVE)
    assert [line["epoch"] for line in read_metrics(run, LIVE)] == [0, 1, 2, 3]
    assert [line["images_sampled"] for line in read_metrics(run, LIVE)] == [0, 4, 8, 12]
    for line, weights in [(base, None), (last, run / "checkpoints/step-000003")]:
        model = load_policy(config(), weights)
        opened = open_live(config(), "cpu", None)
        drawn = rollout(
            model,
            opened.settings["prompts"],
            [[2_000_000, 2_000_001, 2_000_002]] * 2,
            StepPlan.untrained(2, steps=2, noise_level=1.0),
            guidance_scale=2.0,
            batch_size=3,
            conditioning=CleanPrompt(),
        )
        features = opened.encoders["clip-tiny"](drawn.images.flatten(0, 1)).unflatten(0, (2, 3))
        diversity = mean_pairwise_distance(features).mean().item()
        assert line["diversity"]["clip-tiny"] == pytest.approx(diversity, rel=1e-4)
    assert base["share"] == {"clip-tiny": 1.0, "dreamsim-tiny": 1.0}
    ratio = last["diversity"]["clip-tiny"] / base["diversity"]["clip-tiny"]
    assert last["share"]["clip-tiny"] == ratio != 1


# --- what must not change ---


def test_generators_are_left_as_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw()
    with undisturbed(torch.device("cpu")):
        draw()
    with pytest.raises(UserError), undisturbed(torch.device("cpu")):
        draw()
        raise UserError("no")
    assert [first, draw()] == expected


def test_training_is_the_same_to_the_bit_with_and_without(config, tmp_path, monkeypatch):
    """Even for a reward that draws from global generators, and with prompt noise at test.

    Not from Python's: beartype, which checks shapes under pytest, draws from it as well.
    """
    (tmp_path / "drawn_reward.py").write_text(
        "import numpy, torch\n"
        "def drawn(images, prompts):\n"
        "    return images.mean((1, 2, 3)) + numpy.random.rand() + torch.rand(len(images))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runs = {}
    for every in (0, 1):
        np.random.seed(1), torch.manual_seed(1)
        own = ["method=drift", "method.conditioning.test=true", "reward=drawn_reward:drawn"]
        own += ["encoder=clip-tiny", "live.encoder=dreamsim-tiny"]  # which draws when it is loaded
        asked = config(f"every{every}", *own, f"live.every={every}", "evaluation.rewards=")
        runs[every] = train(asked, progress=False)
    assert not (runs[0] / LIVE).exists()
    assert len(read_metrics(runs[1], LIVE)) == 4
    assert timeless(runs[0], "metrics.jsonl") == timeless(runs[1], "metrics.jsonl")
    for name in ("pytorch_lora_weights.safetensors", "optimizer.safetensors"):
        off, on = (load_file(run / f"checkpoints/step-000003/{name}") for run in runs.values())
        assert all(torch.equal(off[key], on[key]) for key in off)


# --- resumed runs ---


def test_a_resumed_run_has_the_looks_of_the_uninterrupted_one(config):
    whole = train(config("whole", "checkpoint_every=1"), progress=False)
    parts = train(config("parts", "checkpoint_every=1", "epochs=2"), progress=False)
    with (parts / LIVE).open("a") as file:  # killed when the third was seen, and not yet saved
        file.write(json.dumps({"epoch": 3, "reward": 1.0}) + '\n{"epoch": 4')
    train(config("parts", "checkpoint_every=1"), resume=True, progress=False)
    assert timeless(parts, LIVE) == timeless(whole, LIVE)


def test_looks_may_begin_late_and_end_early(config):
    """The base model is what it is, however far it was trained when it is first looked at."""
    whole = train(config("whole"), progress=False)
    late = train(config("late", "live.every=0", "epochs=2"), progress=False)
    train(config("late"), resume=True, progress=False)
    of_whole = timeless(whole, LIVE)
    assert timeless(late, LIVE) == [of_whole[0], of_whole[3]]
    early = train(config("early", "epochs=1"), progress=False)
    train(config("early", "live.every=0"), resume=True, progress=False)
    assert timeless(early, LIVE) == of_whole[:2]


def test_looks_that_cannot_be_compared_are_refused(config):
    run = train(config("run", "epochs=1"), progress=False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    asked = config("run", "live.seed=1", "live.images_per_prompt=4")
    with pytest.raises(UserError, match="live.jsonl was made with other images_per_prompt, seed; "):
        train(asked, resume=True, progress=False)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_base_model_of_one_picture_is_refused(config, monkeypatch):
    monkeypatch.setattr("drift.training.live.mean_pairwise_distance", lambda E: torch.zeros(len(E)))
    with pytest.raises(UserError, match="pictures are all alike"):
        train(config(), progress=False)


# --- the alarm ---


def seen(*looks: tuple[int, float, float], **settings) -> Live:
    """Looks of (epoch, reward, diversity), where the base's diversity is 0.5."""
    lines = [
        {"epoch": epoch, "reward": reward, "diversity": {"e": d}, "share": {"e": d / 0.5}}
        for epoch, reward, d in looks
    ]
    return Live(LiveConfig(every=1, **settings), {"encoder": "e"}, {}, lines)


def test_the_alarm_goes_off_below_the_share():
    for diversity, share, off in [(0.2, 0.5, True), (0.25, 0.5, False), (0.01, 0.0, False)]:
        looked = seen((0, 0.0, 0.5), (4, 1.0, diversity), alarm_share=share, on_alarm="stop")
        assert bool(alarm(looked)) == stops(looked) == off
    warned = seen((0, 0.0, 0.5), (4, 1.0, 0.2))
    assert alarm(warned)["collapse"] == (
        "collapse alarm: at epoch 4 diversity by e is 0.200, 0.400 of the base model's; "
        "live.alarm_share is 0.5"
    )
    assert not stops(warned)
    assert not alarm(None) and not stops(None) and not alarm(seen())


def fade(monkeypatch, *values: float) -> None:
    """Diversity by the next looks."""
    left = list(values)
    monkeypatch.setattr(
        "drift.training.live.mean_pairwise_distance", lambda E: torch.full((len(E),), left.pop(0))
    )


QUICK = ["encoder=", "evaluation.encoders=clip-tiny"]  # one diversity a look


def test_a_warning_is_told_once_and_training_goes_on(config, monkeypatch, capsys):
    fade(monkeypatch, 1.0, 0.6, 0.4, 0.3)
    run = train(config("run", *QUICK), progress=False)
    told = [line for line in capsys.readouterr().out.splitlines() if "collapse" in line]
    assert told == [
        "epoch 2: collapse alarm: at epoch 2 diversity by clip-tiny is 0.400, 0.400 of the "
        "base model's; live.alarm_share is 0.5"
    ]
    assert read_metrics(run)[-1]["epoch"] == 3


def test_an_alarm_that_stops_saves_says_why_and_is_gone_on_from_if_allowed(
    config, monkeypatch, capsys, tiny_model, tmp_path
):
    fade(monkeypatch, 1.0, 0.6, 0.4)
    own = [*SMALL, f"model.name={tiny_model}", f"output={tmp_path / 'run'}", *QUICK]
    command = ["train", "menagerie", *own, "--quiet"]
    assert main([*command, "live.on_alarm=stop"]) == 0
    told = capsys.readouterr().out
    assert "epoch 2: collapse alarm: at epoch 2 diversity by clip-tiny is 0.400, 0.400 of" in told
    assert "stopped after epoch 2; to go on, --resume with live.on_alarm=warn or a smal" in told
    run = tmp_path / "run"
    assert [c.epoch for c in list_checkpoints(run)[0]] == [2]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    assert main([*command, "live.on_alarm=stop", "--resume"]) == 0
    told = capsys.readouterr().out
    assert f"{run} was stopped after epoch 2: collapse alarm: at epoch 2 diversity by cli" in told
    assert "to go on, --resume with live.on_alarm=warn" in told
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    fade(monkeypatch, 0.35)  # the base is remembered: one look is left
    assert main([*command, "live.on_alarm=stop", "live.alarm_share=0.3", "--resume"]) == 0
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]
    assert read_metrics(run, LIVE)[-1]["share"] == {"clip-tiny": pytest.approx(0.35)}


# --- keep: pareto ---

COURSE = [(0, 0.0, 0.5), (2, 1.0, 0.45), (4, 2.0, 0.4), (6, 1.5, 0.35), (8, 1.9, 0.39)]


def checkpoints(run, *epochs: int, gone: Sequence[str] = ()) -> None:
    for epoch in epochs:
        folder = run / "checkpoints" / f"step-{epoch:06d}"
        folder.mkdir(parents=True)
        for name in (*checkpoint.WEIGHTS[:1], checkpoint.MOMENTS, checkpoint.STATE):
            (folder / name).write_text("")
        seal(folder, epoch=epoch)
        for name in gone:
            (folder / name).unlink()


def left(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_frontier_and_the_last_are_kept(tmp_path):
    checkpoints(tmp_path, 2, 4, 6, 8)
    looked = seen(*COURSE, keep="pareto")
    prune(tmp_path, looked, last=8)  # 6 and 8 lie below 4 in both, but 8 is the last
    assert left(tmp_path) == ["step-000002", "step-000004", "step-000008"]
    checkpoints(tmp_path, 10)
    looked.looks += seen((10, 2.0, 0.45)).looks  # better than 2 and 4, and 8
    prune(tmp_path, looked, last=10)
    assert left(tmp_path) == ["step-000010"]


def test_all_are_kept_by_default_and_twins_both(tmp_path):
    checkpoints(tmp_path, 2, 4, 6, 8)
    prune(tmp_path, seen(*COURSE), last=8)
    prune(tmp_path, None, last=8)
    assert len(left(tmp_path)) == 4
    twins = seen((2, 1.0, 0.4), (4, 1.0, 0.4), (6, 1.0, 0.3), (8, 1.0, 0.4), keep="pareto")
    prune(tmp_path, twins, last=8)
    assert left(tmp_path) == ["step-000002", "step-000004", "step-000008"]


def test_damaged_checkpoints_and_unseen_ones_decide_nothing_and_stay(tmp_path):
    checkpoints(tmp_path, 1, 2, 6, 8)  # 1 was not looked at
    checkpoints(tmp_path, 4, gone=["state.json"])  # which would dominate 6 and 8
    prune(tmp_path, seen(*COURSE, keep="pareto"), last=6)
    assert left(tmp_path) == [f"step-00000{epoch}" for epoch in (1, 2, 4, 6, 8)]


def test_a_kill_while_deleting_leaves_no_broken_checkpoint(tmp_path, monkeypatch):
    checkpoints(tmp_path, 2, 4, 6, 8, 10)
    looked = seen(*COURSE, (10, 0.0, 0.0), keep="pareto")

    def killed(path):
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, looked, last=10)
    valid, damaged = list_checkpoints(tmp_path)
    assert [c.epoch for c in valid] == [2, 4, 8, 10] and not damaged
    prune(tmp_path, looked, last=10)
    assert left(tmp_path) == ["step-000002", "step-000004", "step-000010"]


def test_nothing_is_deleted_before_the_newer_is_on_disk(config, monkeypatch):
    better = ["checkpoint_every=1", "live.keep=pareto", *QUICK]
    fade(monkeypatch, 1.0, 0.9, 0.8, 2.0)
    monkeypatch.setattr("drift.training.live.score", lambda *_: torch.tensor([[next(rewards)]]))
    rewards = iter([0.0, 1.0, 2.0, 3.0])
    run = train(config("run", *better, "epochs=2"), progress=False)
    assert left(run) == ["step-000001", "step-000002"]

    with monkeypatch.context() as patch:

        def killed(folder, **facts):
            raise KeyboardInterrupt

        patch.setattr(checkpoint, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config("run", *better), resume=True, progress=False)
    assert [c.epoch for c in list_checkpoints(run)[0]] == [1, 2]
    assert len(read_metrics(run, LIVE)) == 4

    fade(monkeypatch, 2.0)  # seen again, for it was not saved
    rewards = iter([3.0])
    train(config("run", *better), resume=True, progress=False)
    assert left(run) == ["step-000003"]


def test_every_checkpoint_is_looked_at_when_it_is_saved(config):
    asked = config("run", "live.every=2", "checkpoint_every=3", "epochs=4", "live.keep=pareto")
    run = train(asked, progress=False)
    looks = {line["epoch"]: line for line in read_metrics(run, LIVE)}
    assert list(looks) == [0, 2, 3, 4]
    (r3, d3), (r4, d4) = ((looks[k]["reward"], looks[k]["diversity"]["clip-tiny"]) for k in (3, 4))
    beaten = r4 >= r3 and d4 >= d3
    assert left(run) == (["step-000004"] if beaten else ["step-000003", "step-000004"])
    finished = replace(asked, live=replace(asked.live, alarm_share=0.9, on_alarm="stop"))
    assert train(finished, resume=True, progress=False) == run

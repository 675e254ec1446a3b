import importlib
import json
import struct
from pathlib import Path

import pytest

from drift.errors import UserError
from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.trackers import TRACKERS, check_trackers, open_trackers, scalars, step_of
from drift.training.tracking import LIVE, METRICS, append_metrics


def update(epoch: int, k: int, reward: float) -> dict:
    return {"epoch": epoch, "update": k, "reward_mean": reward, "images_sampled": 80 * epoch}


def look(epoch: int, diversity: float) -> dict:
    return {"epoch": epoch, "diversity": {"vae": diversity}, "settings": {"seed": 3}}


@pytest.fixture
def config():
    return load_recipe("menagerie", ["optimizer.updates_per_epoch=2"])


def test_numbers_go_by_their_path():
    line = {
        "epoch": 2,
        "loss": -0.5,
        "skipped": True,
        "diversity": None,
        "prompt_signal": [0.1, 0.9],
        "advantages": {"total": {"mean": 0.25}},
        "seconds": {"rollout": 3.0},
        "settings": {"seed": 3},
    }
    assert scalars(line, "train") == {
        "train/epoch": 2.0,
        "train/loss": -0.5,
        "train/skipped": 1.0,
        "train/advantages/total/mean": 0.25,
        "train/seconds/rollout": 3.0,
    }


def test_steps_are_updates():
    lines = [{"epoch": 0}, update(1, 1, 0), update(1, 4, 0), {"epoch": 1}, update(2, 1, 0)]
    assert [step_of(line, updates_per_epoch=4) for line in lines] == [0, 1, 4, 4, 5]


def test_what_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("drift.training.loop.load_policy", "drift.training.loop.open_reward"):
        monkeypatch.setattr(name, None)
    for name in TRACKERS:
        asked = load_recipe("menagerie", [f"trackers={name}", f"output={tmp_path / 'run'}"])
        told = rf"^trackers: {name} is not here: pip install 'drift-rft\[{name}\]'$"
        with pytest.raises(UserError, match=told):
            train(asked, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_mere_folder_of_that_name_is_no_tracker(monkeypatch, tmp_path):
    (tmp_path / "not_wandb").mkdir()  # as W&B leaves one where it was used
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("not_wandb")
    with pytest.raises(UserError, match="not_wandb is not here"):
        check_trackers(["not_wandb"])


def test_names_are_those_there_are():
    both = load_recipe("menagerie", ["trackers=tensorboard,wandb"])
    assert both.trackers == tuple(TRACKERS)
    with pytest.raises(UserError, match="trackers.0: Input should be 'tensorboard' or 'wandb'"):
        load_recipe("menagerie", ["trackers=mlflow"])


def session(config, run: Path, *new: tuple[str, dict]) -> None:
    """What a training does: a line goes to its file, and is shown."""
    with open_trackers(config, run) as track:
        for file, line in new:
            append_metrics(run, [line], file)
            track(file, [line])


FIRST = [(LIVE, look(0, 0.5)), (METRICS, update(1, 1, 7.0)), (METRICS, update(1, 2, 8.0))]
SECOND = [(LIVE, look(1, 0.4)), (METRICS, update(2, 1, 9.0))]


def resume_at(run: Path, epoch: int) -> None:
    """Lines of later epochs are written again, as after a kill."""
    for file in (METRICS, LIVE):
        lines = [json.loads(text) for text in (run / file).read_text().splitlines()]
        (run / file).unlink()
        append_metrics(run, [line for line in lines if line["epoch"] <= epoch], file)


def tensorboard_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, round(event.value, 6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_every_line_once_also_when_resumed(config, tmp_path):
    pytest.importorskip("tensorboard")
    shown = load_recipe("menagerie", ["optimizer.updates_per_epoch=2", "trackers=tensorboard"])
    session(config, tmp_path, *FIRST)  # nobody looked on at first
    session(shown, tmp_path, *SECOND)
    curves = tensorboard_curves(tmp_path)
    assert curves["train/reward_mean"] == [(1, 7.0), (2, 8.0), (3, 9.0)]
    assert curves["train/images_sampled"] == [(1, 80), (2, 80), (3, 160)]
    assert curves["live/diversity/vae"] == [(0, 0.5), (2, 0.4)]
    assert not [name for name in curves if "settings" in name]
    resume_at(tmp_path, 1)
    session(shown, tmp_path, SECOND[1], (METRICS, update(2, 2, 6.0)), (LIVE, look(2, 0.3)))
    curves = tensorboard_curves(tmp_path)
    assert curves["train/reward_mean"] == [(1, 7.0), (2, 8.0), (3, 9.0), (4, 6.0)]
    assert curves["live/diversity/vae"] == [(0, 0.5), (2, 0.4), (4, 0.3)]


def wandb_sessions(run: Path) -> list[tuple[str, str, list[dict[str, float]]]]:
    """Run id, project and logged values of every offline session, in order, from its own file.

    Records are protocol buffers in LevelDB's log format: blocks of 32 KiB, pieces with a header of
    checksum, length and type (1 whole, 2 first, 3 middle, 4 last).
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its process writes for a moment longer
    sessions, files = [], (run / "wandb").glob("offline-run-*/*.wandb")
    for file in sorted(files, key=lambda file: file.parent.name):
        data, at, whole, logged, named = file.read_bytes(), 7, b"", [], ("", "")
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                record, whole = Record.FromString(whole), b""
                if record.HasField("run"):
                    named = record.run.run_id, record.run.project
                if record.HasField("history"):
                    items = record.history.item
                    logged.append(
                        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                    )
        sessions.append((*named, logged))
    return sessions


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb").teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return load_recipe("menagerie", ["optimizer.updates_per_epoch=2", "trackers=wandb"])


def test_wandb_goes_on_with_one_run_and_tells_the_past_once(config, offline, tmp_path):
    check_trackers(offline.trackers)
    session(config, tmp_path, *FIRST)
    session(offline, tmp_path, *SECOND)
    session(offline, tmp_path, (METRICS, update(2, 2, 6.0)))
    (one, project, first), (two, _, second) = wandb_sessions(tmp_path)
    assert one == two == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert project == "drift"
    rewards = [(row["update"], row["train/reward_mean"]) for row in first if "train/epoch" in row]
    assert rewards == [(1, 7.0), (2, 8.0), (3, 9.0)]
    looks = [(row["update"], row["live/diversity/vae"]) for row in first if "live/epoch" in row]
    assert looks == [(0, 0.5), (2, 0.4)]
    assert [(row["update"], row["train/reward_mean"]) for row in second] == [(4, 6.0)]


def test_wandb_without_anybody_logged_in_is_refused(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="^trackers: wandb: .* configured.*=offline needs"):
        check_trackers(offline.trackers)

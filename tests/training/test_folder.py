"""A run's folder under attack: two at once, damaged lines, other inputs, full disks."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from drift.errors import UserError
from drift.files.manifest import seal
from drift.recipes import load_recipe
from drift.training import tracking
from drift.training.loop import train
from drift.training.tracking import environment, read_metrics
from tests.files.test_locks import holder  # noqa: F401 - a fixture
from tests.files.test_writing import files_of_at_most

SMALL = [
    "method=grpo",
    "epochs=2",
    "checkpoint_every=1",
    "threads=1",
    "sampling.steps=2",
    "sampling.prompts_per_epoch=1",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "model.lora_rank=2",
    "encoder=",
    "reward=jpeg-compressibility",
    "evaluation.encoders=[vae]",
]


@pytest.fixture(scope="module")
def finished(tiny_models, tmp_path_factory):
    """Two epochs, each with a checkpoint."""
    place = tmp_path_factory.mktemp("finished")
    (place / "prompts.txt").write_text("a fox\na cat\n")
    model = f"model.name={tiny_models['v_prediction']}"
    own = [model, f"prompts={place / 'prompts.txt'}", f"output={place / 'run'}"]
    train(load_recipe("menagerie", [*SMALL, *own]), progress=False)
    return place


@pytest.fixture
def place(finished, tmp_path):
    """A copy of it, whose config.yaml has the new place."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


def resume(place: Path, *changes: str) -> Path:
    raw = yaml.safe_load((place / "run/config.yaml").read_text())
    own = [f"{key}={raw[key]}" for key in ("prompts", "output")]
    model = f"model.name={raw['model']['name']}"
    asked = load_recipe("menagerie", [*SMALL, model, *own, "epochs=3", *changes])
    return train(asked, resume=True, progress=False)


def state_of(place: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def refused(place: Path, told: str, *changes: str) -> None:
    """One line, and nothing is changed."""
    before = state_of(place)
    with pytest.raises(UserError, match=told) as error:
        resume(place, *changes)
    assert "\n" not in str(error.value) and state_of(place) == before


def test_a_resume_keeps_its_new_length_in_the_configuration(place):
    run = resume(place)
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 3
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


def test_a_second_process_is_told_and_changes_nothing(place, holder):  # noqa: F811
    process = holder(place / "run")
    refused(place, f"^output: .*run is in use by process {process.pid} on .*another output=DIR$")
    fresh = place / "fresh"
    process = holder(fresh)
    with pytest.raises(UserError, match=f"^output: .* is in use by process {process.pid} on "):
        resume_as_new(place, fresh)
    assert not (fresh / "config.yaml").exists()


def resume_as_new(place: Path, output: Path, *changes: str) -> Path:
    raw = yaml.safe_load((place / "run/config.yaml").read_text())
    own = [f"model.name={raw['model']['name']}", f"prompts={raw['prompts']}", f"output={output}"]
    return train(load_recipe("menagerie", [*SMALL, *own, *changes]), progress=False)


def test_what_refuses_does_so_before_the_folder_is_written(place, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("Invalid beta parameter at index 0: 2.0")

    with monkeypatch.context() as patch:
        patch.setattr("drift.training.loop.torch.optim.AdamW", refuse)
        with pytest.raises(UserError, match="^optimizer: Invalid beta parameter at index 0: 2.0$"):
            resume_as_new(place, place / "fresh")
    assert not (place / "fresh").exists()


@pytest.mark.parametrize("size", [0, 1000])
def test_a_start_on_a_full_disk_does_not_block_the_next(size, place):
    with files_of_at_most(size), pytest.raises(UserError, match="^output: cannot write "):
        resume_as_new(place, place / "fresh")
    assert not (place / "fresh/config.yaml").exists()
    assert read_metrics(resume_as_new(place, place / "fresh", "epochs=1"))


def test_a_start_that_cannot_save_is_resumed(place):
    with files_of_at_most(5000), pytest.raises(UserError, match="cannot write .*step-000001"):
        resume_as_new(place, place / "fresh")
    shutil.rmtree(place / "run")
    (place / "fresh").rename(place / "run")
    path = place / "run/config.yaml"
    path.write_text(path.read_text().replace(str(place / "fresh"), str(place / "run")))
    assert [line["epoch"] for line in read_metrics(resume(place))] == [1, 2, 3]


def test_a_disk_that_fills_later_keeps_every_finished_epoch(place):
    """The line of metrics fits no more; then it does."""
    size = (place / "run/metrics.jsonl").stat().st_size
    with files_of_at_most(size + 10), pytest.raises(UserError, match="^output: cannot write "):
        resume(place)
    assert [line["epoch"] for line in read_metrics(resume(place))] == [1, 2, 3]


GARBAGE = [b"garbage\n", b"\xff\xfe\n", b"\0" * 4096 + b"\n", b"{}\n"]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damage_behind_what_was_saved_is_cut_off_and_said(garbage, place, capsys):
    whole = (place / "run/metrics.jsonl").read_bytes()
    with (place / "run/metrics.jsonl").open("ab") as file:
        file.write(garbage + b'{"epoch": 3, "half')
    run = resume(place)
    assert (
        "metrics.jsonl: line 3 was damaged; its epoch is trained again" in capsys.readouterr().out
    )
    assert (run / "metrics.jsonl").read_bytes().startswith(whole)
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_lines_of_finished_epochs_are_refused(garbage, place):
    path = place / "run/metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(garbage + lines[1])
    refused(place, "^output: .*metrics.jsonl: line 1 is damaged after epoch 2, .*put back a copy")


def test_lost_doubled_and_changed_lines_of_finished_epochs_are_refused(place, capsys):
    path = place / "run/metrics.jsonl"
    one, two = path.read_bytes().splitlines(keepends=True)
    for content in (one, two, b"", two + one, one + one + two, one + two.replace(b"1", b"2", 1)):
        path.write_bytes(content)
        refused(place, "^output: .*metrics.jsonl: not the 2 lines that it had after epoch 2, ")
    path.unlink()
    capsys.readouterr()
    assert [line["epoch"] for line in read_metrics(resume(place))] == [3]
    assert "metrics.jsonl is gone: the run goes on without" in capsys.readouterr().out


def test_every_flipped_bit_of_a_line_is_found(place):
    """Without the model: the reading alone."""
    run = place / "run"
    known = json.loads((run / "checkpoints/step-000002/state.json").read_text())["course"]
    content = (run / "metrics.jsonl").read_bytes()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (run / "metrics.jsonl").write_bytes(flipped)
        with pytest.raises(UserError, match="metrics.jsonl: "):
            tracking.finished_lines(run, 2, "metrics.jsonl", known["metrics.jsonl"])


@pytest.mark.parametrize("content", ["null", "{}", "[]", '{"skipped": 0}'])
def test_a_state_that_no_run_writes_is_refused(content, place):
    newest = place / "run/checkpoints/step-000002"
    facts = json.loads((newest / "manifest.json").read_text())
    (newest / "state.json").write_text(content)
    (newest / "manifest.json").unlink()
    seal(newest, epoch=2, moments=facts["moments"])
    refused(place, r"^checkpoint: .*step-000002/state\.json is ")


def test_other_prompts_in_the_file_are_refused_and_a_moved_file_is_not(place):
    (place / "prompts.txt").write_text("a fox\na bee\n")
    told = r"it was begun with others: prompts, prompts.txt of .* \(then \w{12}, now \w{12}\)$"
    refused(place, told)
    (place / "prompts.txt").unlink()
    (place / "moved.txt").write_text("a fox\na cat\n")
    run = resume(place, f"prompts={place / 'moved.txt'}")
    assert yaml.safe_load((run / "config.yaml").read_text())["prompts"] == str(place / "moved.txt")


def test_a_moved_base_model_with_the_same_content_is_taken(place, tiny_model):
    moved = shutil.copytree(tiny_model, place / "moved")
    run = resume(place, f"model.name={moved}")
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["name"] == str(moved)


def test_a_refusal_names_the_field_then_and_now(place):
    told = r"has other optimizer: learning_rate \(.* then, 0\.5 now\)$"
    refused(place, told, "optimizer.learning_rate=0.5")


def test_other_versions_of_libraries_are_said(place, capsys):
    path = place / "run/environment.json"
    written = json.loads(path.read_text())
    written["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(written))
    resume(place)
    assert "torch was 1.0 when the run began, and is " in capsys.readouterr().out


def test_a_changed_helper_of_ones_own_reward_is_refused(place, tmp_path, monkeypatch):
    name = "helped_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        f"import {name}_helper\ndef mine(images, prompts):\n    return images[:, 0].mean((1, 2))\n"
    )
    (tmp_path / f"{name}_helper.py").write_text("SCALE = 1\n")
    monkeypatch.chdir(tmp_path)
    reward = f"reward={name}:mine"
    resume_as_new(place, place / "own", "epochs=1", reward)
    (tmp_path / f"{name}_helper.py").write_text("SCALE = 2\n")
    raw = yaml.safe_load((place / "own/config.yaml").read_text())
    own = [f"{key}={raw[key]}" for key in ("prompts", "output", "reward")]
    asked = load_recipe("menagerie", [*SMALL, f"model.name={raw['model']['name']}", *own])
    with pytest.raises(UserError, match=rf"helpers of {name}:mine, {name}_helper.py of .*then"):
        train(asked, resume=True, progress=False)


def test_without_git_the_revision_is_null(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git"] is None


def test_a_damaged_environment_is_told(place):
    (place / "run/environment.json").write_bytes(b"\0" * 100)
    refused(place, r"^output: .*environment\.json is damaged: it is not JSON")

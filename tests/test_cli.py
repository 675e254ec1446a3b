import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from drift.cli import COMMANDS, main
from drift.cli.arguments import EVALUATION
from drift.config import EvaluateConfig
from drift.training.tracking import read_metrics


def refused(capsys, *arguments: str) -> str:
    """The one line of a refusal, with exit code 2."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def test_bad_input_is_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "no recipe 'nope'" in refused(capsys, "train", "nope")
    assert "bogus" in refused(capsys, "train", "menagerie", "bogus=1")
    assert "epochs" in refused(capsys, "train", "menagerie", "epochs=many")
    assert "is empty" in refused(capsys, "train", "menagerie", f"prompts={empty}")
    assert "model.name" in refused(capsys, "train", "menagerie", "model.name=./nowhere")
    unknown = refused(capsys, "train", "menagerie", "reward=pickscore-tiny + 2*nonsense")
    assert "reward: there is no 'nonsense'; known are pickscore" in unknown
    assert "reward: '' in 'hpsv2 +' is" in refused(capsys, "train", "menagerie", "reward=hpsv2 +")
    larger = refused(capsys, "train", "menagerie", "sampling.group_size=21")
    assert "group_size (21)" in larger
    assert "pool_size (20)" in larger
    (tmp_path / "file").write_text("")
    assert "output" in refused(capsys, "train", "menagerie", "output=file/run")
    assert "nowhere" in refused(capsys, "evaluate", "nowhere", "prompts=animals")
    assert "RUN|MODEL: 'aaa" in refused(capsys, "evaluate", "a" * 300)
    assert "at least one run or model" in refused(capsys, "evaluate", "seed=1")
    assert "share: '3/2' is not R/N" in refused(capsys, "evaluate", "x", "--share", "3/2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "file"]


@pytest.mark.parametrize("method", ["ddpo", "grpo", "grpo-kl", "drift"])
def test_smoke_trains_the_shipped_model_by_every_method(method, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "smoke", f"method={method}", "threads=1", "--quiet"]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[-1] == f"wrote runs/smoke-{method}"
    run = tmp_path / "runs" / f"smoke-{method}"
    lines = read_metrics(run)
    assert [(line["epoch"], line["update"]) for line in lines] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert lines[0]["first_clip_fraction"] == 0
    assert lines[0]["max_ratio_error"] <= 1e-6
    assert all(line["grad_norm"] > 0 for line in lines)
    assert (lines[-1]["reference_kl"] > 0) == (method == "grpo-kl")
    assert (run / "checkpoints/step-000002/pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert "usage: drift " + command in capsys.readouterr().out


def test_debug_shows_where_an_error_came_from(capsys):
    assert main(["train", "nope", "--debug"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("Traceback")
    assert any("load_recipe" in line for line in err)
    assert err[-1].startswith("drift: error: there is no recipe 'nope'")


def test_overrides_may_stand_on_either_side_of_options(capsys):
    line = refused(capsys, "train", "menagerie", "seed=1", "--quiet", "bogus=1")
    assert "bogus" in line
    with pytest.raises(SystemExit) as done:
        main(["train", "menagerie", "--bogus"])
    assert done.value.code == 2


def test_folders_and_overrides_of_an_evaluation_are_told_apart(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "drift.evaluation.evaluate.evaluate",
        lambda targets, **given: seen.append((targets, given)) or [],
    )
    before = ["evaluate", "runs/one", "seed=3", "--encoders", "vae,clip-tiny", "./steps=20"]
    after = ["--share", "2/2", "runs/lr=1e-3", "evaluation.eta=0", "--prompts-count", "4"]
    assert main([*before, *after]) == 0
    ((targets, given),) = seen
    assert targets == [Path("runs/one"), Path("steps=20"), Path("runs/lr=1e-3")]
    assert given["overrides"] == ["seed=3", "evaluation.eta=0"]
    assert given["options"] == {"encoders": "vae,clip-tiny", "prompts_count": 4}
    assert (given["share"].part, given["share"].parts) == (2, 2)
    assert set(EVALUATION) <= {f.name for f in fields(EvaluateConfig)}


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "drift", "train", "nope"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("drift: error: there is no recipe")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "x", "--prompt", "p", "--count", "0"], "argument --count: '0' is refused"),
        (["generate", "x", "--prompt", "p", "--seed", "-1"], "argument --seed: '-1' is refused"),
        (["generate", "x", "--prompt", "p", "--count", "9" * 9_000], "argument --count: '999"),
        (["compare", "x", "--page-size", "nan"], "argument --page-size: 'nan' is refused"),
        (["compare", "x", "--out", "a" * 300], "argument --out: 'aaa"),
        (["compare", "~no-such-user/x"], "argument RUN: '~no-such-user/x' is refused"),
        (["reproduce", "table1", "--jobs", "0"], "argument --jobs: '0' is refused"),
        (["pretrain", "clip", "--scale", "inf"], "argument --scale: 'inf' is refused"),
        (["reproduce", "table1", "--seeds", "1000000"], "argument --seeds: '1000000' is"),
        (["train", "smoke", "--bogus"], "unrecognized arguments: --bogus (see drift --help)"),
        (["nope"], "argument COMMAND: invalid choice: 'nope'"),
        ([], "the following arguments are required: COMMAND (see drift --help)"),
    ],
)
def test_what_an_option_does_not_take_is_one_line(arguments, told, capsys):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    out, err = capsys.readouterr()
    assert done.value.code == 2 and not out
    assert err.startswith(f"drift: error: {told}") and err.count("\n") == 1
    assert len(err) < 1_000

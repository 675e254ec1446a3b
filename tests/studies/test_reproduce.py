import pytest

from drift.cli import main
from drift.studies.reproduce import reproduce

TINY = [
    "epochs=2",
    "checkpoint_every=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=6",
    "sampling.group_size=3",
    "evaluation.steps=3",
    "evaluation.images_per_prompt=3",
]


def test_the_plan_is_told_and_nothing_is_done(tmp_path, capsys):
    out = tmp_path / "studies"
    assert main(["reproduce", "sampling", "--out", str(out), "--dry-run", *TINY]) == 0
    told = capsys.readouterr().out
    assert told.startswith("sampling: Figures 4-6")
    assert "pickscore-tiny-drift-contrasted-seed43" in told
    assert "to train: 6 of 6 runs, 144 images sampled and scored, " in told  # 6 x 2 x 2 x 6
    assert "to judge: 540 images of their checkpoints" in told  # 6 x 2 x 15 x 3
    assert not out.exists()


def test_an_unknown_study_is_one_line(tmp_path, capsys):
    assert main(["reproduce", "table9", "--out", str(tmp_path)]) == 2
    assert "there is no 'table9'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_from_end_to_end_and_again(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\na horse\n")
    told: list[str] = []

    def study(*overrides: str):
        own = [*TINY, f"evaluation.prompts={prompts}", *overrides]
        return reproduce("collapse", seeds=1, out=tmp_path / "out", overrides=own, say=told.append)

    (page,) = study()
    assert page == tmp_path / "out/menagerie-small/collapse/pickscore-tiny/report.html"
    assert page.stat().st_size > 10_000
    runs = tmp_path / "out/menagerie-small/pickscore-tiny"
    metrics = (runs / "grpo-seed42/metrics.jsonl").read_text()
    assert sorted(p.name for p in (runs / "drift-seed42/evaluations").iterdir()) == [
        f"step-00000{k}" for k in range(3)
    ]

    told.clear()
    study()
    assert any(line.startswith("to train: 0 of 2 runs, 0 images") for line in told)
    assert (runs / "grpo-seed42/metrics.jsonl").read_text() == metrics

    told.clear()
    study("epochs=3")  # it goes on where it stopped, and knows by now what an epoch takes
    assert any(line.startswith("time: about 0.0 h") for line in told)
    assert (runs / "grpo-seed42/metrics.jsonl").read_text().startswith(metrics)

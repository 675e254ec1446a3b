import csv

import pytest

from drift.errors import UserError
from drift.studies.demo import demo

TINY = [
    "epochs=2",
    "checkpoint_every=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "evaluation.steps=3",
    "evaluation.images_per_prompt=4",
]


def test_the_demonstration_end_to_end(tmp_path, capfd):
    """The very processes of `make demo`, a few pictures small."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\na <b>horse</b>\n")
    page = demo(tmp_path / "out", [*TINY, f"evaluation.prompts={prompts}"])
    text = page.read_text(encoding="utf-8")
    assert page.name == "report.html"
    assert r"a \u003cb\u003ehorse\u003c/b\u003e" in text and "<b>horse" not in text
    assert "Gains over each baseline" in text
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert len(list(csv.reader(file))) > 3
    for method in ("grpo", "drift"):
        assert (tmp_path / "out" / method / "checkpoints" / "step-000002").is_dir()
    assert "3/3" in capfd.readouterr().out


def test_a_failing_step_is_named_and_nothing_goes_on(tmp_path):
    with pytest.raises(UserError, match="-train failed: .*empty"):
        (tmp_path / "none.txt").write_text("")
        demo(tmp_path / "out", [*TINY, f"prompts={tmp_path / 'none.txt'}"])
    with pytest.raises(UserError, match="exists already"):
        demo(tmp_path, [])

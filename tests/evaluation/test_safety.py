"""Evaluations under attack: two at once, full disks, damaged chunks, shares that never come."""

import json

import pytest

from drift.errors import UserError
from drift.evaluation import evaluate as module
from drift.evaluation import stored
from drift.evaluation.chunks import Chunks, parse_share
from drift.evaluation.evaluate import evaluate
from drift.report.compare import compare
from tests.evaluation.test_evaluate import (  # noqa: F401 - fixtures
    QUICK,
    drawn,
    files_of,
    judges,
    run,
)
from tests.fake_runs import make_run
from tests.files.test_locks import holder  # noqa: F401 - a fixture
from tests.files.test_writing import files_of_at_most

pytestmark = pytest.mark.usefixtures("judges")


def test_other_settings_at_once_are_refused(run, drawn, holder):  # noqa: F811
    process = holder(run / "evaluations", "share-1", "0123456789ab")
    with pytest.raises(UserError) as error:
        evaluate([run], overrides=QUICK)
    told = f"evaluate: {run / 'evaluations'} is in use by process {process.pid} on "
    assert str(error.value).startswith(told) and "another --name" in str(error.value)
    assert not drawn and "\n" not in str(error.value)
    evaluate([run], checkpoints="base", overrides=QUICK, name="other")  # has a folder of its own
    process.kill()
    process.wait()
    evaluate([run], checkpoints="base", overrides=QUICK)
    assert not list((run / "evaluations").glob(".*"))


def test_a_share_that_never_comes_ends_with_what_to_do(run, drawn, monkeypatch):  # noqa: F811
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "POLL", 0.1)
    told = (
        r"^share: .* step-000000 waits for prompts 2 to 2, and none came for .* minutes; start the "
        r"same command with --share 2/2, then this one again, or without --share$"
    )
    with pytest.raises(UserError, match=told):
        evaluate([run], overrides=QUICK, share=parse_share("1/2"))
    before = len(drawn)
    evaluate([run], overrides=QUICK)  # what was drawn is taken
    assert len(drawn) == 6 and before == 4


def test_a_damaged_chunk_is_told_and_drawn_again(run, drawn, monkeypatch, capsys):  # noqa: F811
    whole = files_of(evaluate([run], checkpoints="base", overrides=QUICK)[0])
    (run / "evaluations/step-000000/metrics.json").unlink()
    write = Chunks.write

    def flipped(self, chunk, pixels):
        write(self, chunk, pixels)
        if chunk.start == 1:
            file = self._file(chunk)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

    monkeypatch.setattr(Chunks, "write", flipped)
    again = evaluate([run], checkpoints="base", overrides=QUICK)[0]
    assert "step-000000: chunk 1 was damaged, and is drawn again" in capsys.readouterr().out
    assert files_of(again) == whole and drawn[3:] == [("00", p) for p in (0, 1, 2, 1)]


@pytest.mark.parametrize("size", [0, 200, 60_000])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(size, run):  # noqa: F811
    with files_of_at_most(size), pytest.raises(UserError, match="^evaluate: cannot write "):
        evaluate([run], checkpoints="base", overrides=QUICK)
    assert not (run / "evaluations/step-000000").exists()
    (folder,) = evaluate([run], checkpoints="base", overrides=QUICK)
    assert isinstance(stored.examine_evaluation(folder), dict)


def test_an_evaluation_under_another_name_or_of_null_is_told(run):  # noqa: F811
    (folder,) = evaluate([run], checkpoints="base", overrides=QUICK)
    moved = folder.rename(folder.with_name("step-000020"))
    assert stored.examine_evaluation(moved) == "says that it is of step 0, unlike its name"
    (moved / "notes.txt").write_text("mine")
    assert "holds 'notes.txt'" in str(stored.examine_evaluation(moved))
    (moved / "metrics.json").write_text("null")
    assert "'metrics.json' is damaged" in str(stored.examine_evaluation(moved))


def test_a_comparison_on_a_full_disk_leaves_the_earlier_page_whole(tmp_path):
    runs = [make_run(tmp_path / "drift", "drift"), make_run(tmp_path / "grpo", "grpo")]
    page = compare(runs[:1], tmp_path / "page", runs[1:])
    before = {p: p.read_bytes() for p in (tmp_path / "page").rglob("*") if p.is_file()}
    for size in (4000, len(page.read_bytes()) // 2):  # what is captured needs some
        with files_of_at_most(size), pytest.raises(UserError, match="^out: cannot write "):
            compare(runs, tmp_path / "page")
        assert before == {p: p.read_bytes() for p in (tmp_path / "page").rglob("*") if p.is_file()}
    (tmp_path / "drift/environment.json").write_bytes(b"\0\0")
    with pytest.raises(
        UserError, match=r"^compare: .*environment\.json is damaged: it is not JSON"
    ):
        compare(runs, tmp_path / "page")
    assert json.loads((tmp_path / "page/comparison.json").read_text())

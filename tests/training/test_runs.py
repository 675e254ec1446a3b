"""What a run folder says of its training."""

import json

from drift.training.runs import read_training
from tests.fake_runs import make_run


def test_training_leaves_out_a_line_that_was_cut_off(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "rew')
    first, second = read_training(run)
    assert (first["images"], second["images"], second["seconds"]) == (80, 160, 14)


def test_an_epoch_has_the_mean_of_its_updates(tmp_path):
    line = {"epoch": 1, "images_sampled": 8, "reward_mean": 2.0, "diversity": None, "seconds": 3.0}
    rows = [line | {"clip_fraction": share, "gaps": [0.1]} for share in (0.25, 0.75)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (point,) = read_training(tmp_path)
    assert point["clip_fraction"] == 0.5 and point["reward"] == 2.0
    assert point["diversity"] is None and "gaps" not in point
    assert read_training(tmp_path / "elsewhere") == []

"""The comparison reads run folders only, says what the numbers say, and shows text as text."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from drift.errors import UserError
from drift.evaluation.stored import evaluation_folder
from drift.recipes import load_recipe
from drift.report.arms import name_runs
from drift.report.compare import compare
from drift.report.verdict import direction, number
from tests.fake_runs import SETTINGS, make_run


def sentences(tmp_path, *runs, **options):
    compare(runs, tmp_path / "out", **options)
    return json.loads((tmp_path / "out" / "comparison.json").read_text())["verdict"]


@pytest.fixture
def grpo(tmp_path):
    return make_run(tmp_path / "grpo")


def test_names_of_rewards_are_text(tmp_path):
    name = "http://host/<u>?a&b + 0.1*http://another.host/with/a/rather/long/path"
    run = make_run(tmp_path / "run", changes=[f"reward={name}"])
    for step in (0, 2):
        file = evaluation_folder(run, step) / "metrics.json"
        file.write_text(file.read_text().replace("pickscore-tiny", name))
    text = compare([run], tmp_path / "out").read_text()
    assert "<u>" not in text
    assert "Reward, http://host/&lt;u&gt;?a&amp;b + 0.1*http://another.host/with/a/r" in text
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert f"reward/{name}" in {row["figure"] for row in csv.DictReader(file)}


def test_the_numbers_as_csv_and_json(tmp_path, grpo):
    compare([grpo], tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = {(row["step"], row["figure"]): row for row in csv.DictReader(file)}
    assert float(rows["2", "reward/pickscore-tiny"]["mean"]) == pytest.approx(1.0)
    assert rows["2", "reward/pickscore-tiny"]["images_sampled"] == "160"
    assert rows["0", "coverage"]["images_sampled"] == "0"
    assert rows["2", "vendi_all/clip-tiny"]["low"] == ""
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["settings"]["seed"] == 1_000_000 and len(stored["rows"]) == len(rows)


@pytest.mark.parametrize(
    "reward, clip, expected",
    [
        (1.2, 0.8, "DRIFT is ahead on both: a higher reward and more diverse pictures than GRPO."),
        (1.0, 0.8, "DRIFT draws more diverse pictures than GRPO, at a reward that is not clearly"),
        (1.2, 0.5, "DRIFT reaches a higher reward than GRPO, at a diversity that is not clearly"),
        (0.8, 0.8, "A trade-off: DRIFT draws more diverse pictures than GRPO, but at a lower"),
        (1.2, 0.2, "A trade-off: GRPO draws more diverse pictures than DRIFT, but at a lower"),
        (0.8, 0.2, "GRPO is ahead on both"),
        (0.8, 0.5, "GRPO reaches a higher reward than DRIFT"),
        (1.0, 0.2, "GRPO draws more diverse pictures than DRIFT"),
        (1.0, 0.5, "No clear difference between GRPO and DRIFT"),
    ],
)
def test_the_verdict_is_built_from_the_numbers_whoever_wins(tmp_path, grpo, reward, clip, expected):
    # The other measures follow, so that nothing contradicts the headline.
    other = {"dreamsim": clip + 0.5, "coverage": clip + 4.5}
    drift = make_run(tmp_path / "drift", "drift", reward=reward, clip=clip, **other)
    headline, course, *rest = sentences(tmp_path, grpo, drift)
    assert headline.startswith(expected)
    assert "GRPO raised the reward (0.000 → 1.00) and kept 50 %" in course
    assert f"kept {100 * clip:.0f} % of the base model's diversity" in course
    assert "clip-tiny" in course  # judged by the encoder that rewarded no run
    assert not any("do not all agree" in sentence for sentence in rest)


def test_a_gain_that_only_the_rewarded_encoder_sees_is_called_out(tmp_path, grpo):
    drift = make_run(tmp_path / "drift", "drift", clip=0.5, dreamsim=1.5, coverage=3.0)
    headline, *rest = sentences(tmp_path, grpo, drift)
    assert headline.startswith("No clear difference")
    assert any("by dreamsim-tiny, which was rewarded, DRIFT is the more diverse" in s for s in rest)
    assert any("right animals, GRPO is the more diverse" in s for s in rest)


def test_unequal_budgets_and_single_seeds_are_said(tmp_path, grpo):
    drift = make_run(tmp_path / "drift", "drift", images=160)
    *_, budget, once = sentences(tmp_path, grpo, drift)
    assert budget == "The runs did not sample equally many images: GRPO 160, DRIFT 320."
    assert once.startswith("Each method was trained once")


def test_other_measures_of_diversity_in_training_are_said(tmp_path, grpo):
    drift = make_run(tmp_path / "drift", "drift", changes=["encoder=policy"])
    *_, units, once = sentences(tmp_path, grpo, drift)
    assert units.startswith("The runs measured diversity in training by dreamsim-tiny and policy")
    assert once.startswith("Each method was trained once")
    page = (tmp_path / "out" / "report.html").read_text()
    assert '"words":"diversity, dreamsim-tiny and policy"' in page
    assert not any("by dreamsim-tiny and" in s for s in sentences(tmp_path, grpo))


def test_one_run_and_three(tmp_path, grpo):
    assert sentences(tmp_path, grpo)[0].startswith("GRPO raised the reward (0.000 → 1.00) and kept")
    drift = make_run(tmp_path / "drift", "drift", reward=1.1, clip=0.7)
    weak = ["method.shaping.weight=0.1"]
    other = make_run(tmp_path / "weak", "drift", reward=1.2, clip=0.9, changes=weak)
    headline, *_ = sentences(tmp_path, grpo, drift, other)
    assert headline == "weak has both the highest reward and the highest diversity."


def test_seeds_are_one_arm_with_gains_over_a_baseline(tmp_path):
    ours = [
        make_run(tmp_path / f"drift-{s}", "drift", 1.1 + s / 10, 0.8, changes=[f"seed={s}"])
        for s in (1, 2)
    ]
    theirs = [make_run(tmp_path / f"grpo-{s}", changes=[f"seed={s}"]) for s in (1, 2)]
    compare(ours, tmp_path / "out", theirs)
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {name: len(runs) for name, runs in stored["arms"].items()} == {"DRIFT": 2, "GRPO": 2}
    assert stored["verdict"][0].startswith("DRIFT is ahead on both")
    assert any("2 seeds: intervals over so few are too narrow" in s for s in stored["verdict"])
    assert stored["scale"] == {"reward": "pickscore-tiny", "low": 0.0, "high": pytest.approx(1.3)}
    first = stored["gains"][0]
    assert (first["kind"], first["measure"]) == ("DG", "diversity/clip-tiny")
    assert first["mean"] == pytest.approx(0.6) and first["reached"] == 2  # 0.8 over 0.5
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "| DG / RG of DRIFT, paper's protocol |  | +60.0 %" in text
    assert "not reached" in text  # at GRPO's diversity, no more than the base model's reward: RG
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Gains over each baseline" in page and "A column is the mean" in page
    header, *_ = (tmp_path / "out" / "tables" / "compute.csv").read_text().splitlines()
    assert header == ",Seed,Epochs,Images sampled,Denoiser rows,Rewards,Seconds"
    assert r"\toprule" in (tmp_path / "out" / "tables" / "table1.tex").read_text()


def test_a_baseline_is_another_method(tmp_path):
    one, two = (make_run(tmp_path / f"g{s}", changes=[f"seed={s}"]) for s in (1, 2))
    with pytest.raises(UserError, match="a method is named as a baseline of itself"):
        compare([one], tmp_path / "out", [two])
    with pytest.raises(UserError, match="named twice; a run is not its own baseline"):
        compare([one], tmp_path / "out", [one])
    other = make_run(tmp_path / "d", "drift", changes=["seed=3"])
    with pytest.raises(UserError, match="no training seed in common"):
        compare([other], tmp_path / "out", [one])


def test_features_that_are_nan_are_refused(tmp_path, grpo):
    path = evaluation_folder(grpo, 2) / "features.safetensors"
    save_file({"clip-tiny": torch.full((5, 4, 8), torch.nan)}, path)
    with pytest.raises(UserError, match="holds NaN among the features of clip-tiny"):
        compare([grpo], tmp_path / "out")


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, grpo):
    def refused(*runs):
        with pytest.raises(UserError) as error:
            compare(runs, tmp_path / "out")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "named twice" in refused(grpo, tmp_path / "x" / ".." / "grpo")
    assert "is not a run folder" in refused(tmp_path)
    hps = make_run(tmp_path / "hps", "drift", changes=["reward=hpsv2-tiny"])
    assert f"was trained on pickscore-tiny, and {hps} on hpsv2-tiny" in refused(grpo, hps)
    for name, changes in [
        ("seed", {"seed": 5}),
        ("prompts", {"prompts": ["a cow"] * 5}),
        ("rewards", {"rewards": ["hpsv2-tiny"]}),
    ]:
        other = make_run(tmp_path / name)
        for step in (0, 2):
            path = evaluation_folder(other, step) / "metrics.json"
            metrics = json.loads(path.read_text())
            path.write_text(json.dumps(metrics | {"settings": SETTINGS | changes}))
        assert f"differ in their {name} (" in refused(grpo, other)
    other = make_run(tmp_path / "base")
    path = evaluation_folder(other, 2) / "metrics.json"
    path.write_text(path.read_text().replace("abab", "ffff"))
    assert "differ in their base model" in refused(grpo, other)
    path.unlink()
    assert f"{other} has no evaluation of its base model and a checkpoint; " in refused(other)
    assert refused(other).endswith(f"do `drift evaluate {other}`")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_is_not_there_is_told_with_the_names_that_are(tmp_path, grpo):
    (grpo / "evaluations" / "b").mkdir()
    for step in (0, 2):
        evaluation_folder(grpo, step).rename(evaluation_folder(grpo, step, "b"))
    with pytest.raises(UserError, match="has no evaluation of its .*; it has b, for --name; do"):
        compare([grpo], tmp_path / "out")
    make_run(tmp_path / "c").joinpath("evaluations").rename(grpo / "evaluations" / "c")
    told = f"has no evaluation 'd' of its .*; it has b, c, for --name; .*{grpo} --name d`$"
    with pytest.raises(UserError, match=told):
        compare([grpo], tmp_path / "out", name="d")
    assert sentences(tmp_path, grpo, name="b") == sentences(tmp_path, grpo, name="c")


def test_labels_are_different_for_different_runs(tmp_path):
    config = load_recipe("menagerie", ["method=grpo"])
    drift = replace(config, method_name="drift")
    folders = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "y"]
    labels = name_runs(folders, [config, config, drift])
    assert labels == [str(folders[0]), str(folders[1]), "DRIFT"]


def test_a_difference_needs_prompts_and_one_direction():
    ones = torch.ones(1, 6)
    mixed = torch.tensor([[-1.0, 1.0] * 3])
    assert (direction(ones), direction(-ones), direction(mixed)) == (1, -1, 0)
    assert direction(ones[:, :4]) == 0 and direction(None) == 0
    assert direction(torch.cat([ones, -ones])) == 0  # the seeds do not agree


def test_numbers_in_words():
    shown = [number(v) for v in (None, 0.0123, -0.8, 1 - 1e-9, 1.234, 12.34, 1234.5, -1e-9)]
    assert shown == ["–", "0.012", "−0.800", "1.00", "1.23", "12.34", "1,234", "0.000"]


def test_a_run_without_a_record_of_its_machine_is_compared(grpo, tmp_path):
    (grpo / "environment.json").unlink()
    page = compare([grpo], tmp_path / "out").read_text(encoding="utf-8")
    assert f"drift train {grpo}" not in page
    assert f"drift evaluate {grpo}" in page

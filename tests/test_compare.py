"""The comparison reads run folders only, says what the numbers say, and shows text as text."""

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from drift.compare import compare
from drift.config import to_yaml
from drift.errors import UserError
from drift.recipes import load_recipe
from drift.report import render
from drift.report.arms import name_runs
from drift.report.charts import Line, line_chart, nice_ticks, rolling_mean, spread
from drift.report.measures import summarise, whole
from drift.report.render import describe_environment, sheets, spread_out
from drift.report.runs import FORMAT, evaluation_folder, read_training
from drift.report.verdict import difference, number

PROMPTS = ["a fox", "a cat", "a bee", '<script>alert("x")</script>', "<img src=http://e.vil/>"]
SETTINGS = {
    "prompts": PROMPTS,
    "images_per_prompt": 4,
    "seed": 1_000_000,
    "steps": 10,
    "guidance_scale": 2.0,
    "eta": 1.0,
    "rewards": ["pickscore-tiny"],
    "encoders": ["dreamsim-tiny", "clip-tiny"],
    "judge": True,
}


def figures(reward, clip, dreamsim=1.0, coverage=5.0):
    """Every prompt has nearly the same value: differences of 0.1 are clear, of 0 are not."""
    wobble = torch.linspace(-0.02, 0.02, len(PROMPTS))
    other = wobble[[3, 1, 4, 0, 2]]
    return {
        "reward/pickscore-tiny": summarise(reward + wobble),
        "diversity/clip-tiny": summarise(clip + other),
        "diversity/dreamsim-tiny": summarise(dreamsim + wobble),
        "vendi_all/clip-tiny": whole(7.0),
        "coverage": summarise(coverage + wobble),
    }


def write_evaluation(run, step, judged, settings=SETTINGS, sha256="ab" * 32):
    folder = evaluation_folder(run, step)
    folder.mkdir(parents=True)
    metrics = {
        "format": FORMAT,
        "step": step,
        "settings": settings,
        "model": {"name": "menagerie/model", "sha256": sha256},
        "adapter": {"epoch": step, "sha256": "cd" * 32} if step else None,
        "figures": judged,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    pixels = np.random.default_rng(step).integers(0, 256, (len(PROMPTS), 4, 16, 16, 3), np.uint8)
    np.savez(folder / "images.npz", images=pixels)


def make_run(folder, method="grpo", reward=1.0, clip=0.5, images=80, changes=(), **judged):
    """A run of 2 epochs, evaluated at its base (reward 0, diversity 1, coverage 9) and its end."""
    config = load_recipe("menagerie", [f"method={method}", f"output={folder}", *changes])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "environment.json").write_text(json.dumps({"command": f"drift train {folder}"}))
    line = {"reward_mean": 0.1, "diversity": 1.0, "seconds": {"rollout": 3.0, "update": 4.0}}
    rows = [
        line | {"epoch": epoch, "update": k, "images_sampled": images * epoch}
        for epoch in (1, 2)
        for k in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_evaluation(folder, 0, figures(0.0, 1.0, coverage=9.0))
    write_evaluation(folder, 2, figures(reward, clip, **judged))
    return folder


def sentences(tmp_path, *runs):
    compare(runs, tmp_path / "out")
    return json.loads((tmp_path / "out" / "comparison.json").read_text())["verdict"]


@pytest.fixture
def grpo(tmp_path):
    return make_run(tmp_path / "grpo")


def test_the_page_is_one_safe_file(tmp_path, grpo):
    drift = make_run(tmp_path / "drift", "drift", clip=0.8)
    page = compare([grpo, drift], tmp_path / "out")
    text = page.read_text()
    assert page == tmp_path / "out" / "report.html" and len(text) < 2_000_000

    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'").startswith("default-src 'none';")
    assert f"&#39;sha256-{digest}&#39;" in policy

    # Prompts are text: nothing of them is markup, and the page asks for nothing outside itself.
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in text
    assert "<script" not in text and "<img src=http" not in text
    own = text.replace("&lt;img src=http://e.vil/&gt;", "")
    assert "http://" not in own and "https://" not in own
    assert not re.search(r"<[^>]+\s(style|on\w+)=", text)
    sources = re.findall(r'<img src="([^"]{30})', text)
    assert len(sources) == 3 * len(PROMPTS)
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    for word in ("Base model", "GRPO", "DRIFT", "rewarded in no run", "1000000"):
        assert word in text


def test_names_of_rewards_are_text(tmp_path):
    name = "http://host/<u>?a&b + 0.1*http://another.host/with/a/rather/long/path"
    run = make_run(tmp_path / "run", changes=[f"reward={name}"])
    for step in (0, 2):
        file = evaluation_folder(run, step) / "metrics.json"
        file.write_text(file.read_text().replace("pickscore-tiny", name))
    text = compare([run], tmp_path / "out").read_text()
    assert "<u>" not in text
    assert "Reward, http://host/&lt;u&gt;?a&amp;b + 0.1*http://another.host/with/a/r" in text
    assert "reward, http://host/&lt;u&gt;?a&amp;b + 0.1*http://…</text>" in text  # an axis title
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


def test_unequal_budgets_rewards_and_single_seeds_are_said(tmp_path, grpo):
    changes = ["reward=hpsv2-tiny"]
    drift = make_run(tmp_path / "drift", "drift", images=160, changes=changes)
    *_, budget, rewards, once = sentences(tmp_path, grpo, drift)
    assert budget == "The runs did not sample equally many images: GRPO 160, DRIFT 320."
    assert rewards == "The runs were trained on different rewards: hpsv2-tiny, pickscore-tiny."
    assert once.startswith("Each method was trained once")


def test_other_measures_of_diversity_in_training_are_said(tmp_path, grpo):
    drift = make_run(tmp_path / "drift", "drift", changes=["encoder=policy"])
    *_, units, once = sentences(tmp_path, grpo, drift)
    assert units.startswith("The runs measured diversity in training by dreamsim-tiny and policy")
    assert once.startswith("Each method was trained once")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "diversity, dreamsim-tiny and policy against images sampled" in page
    assert not any("by dreamsim-tiny and" in s for s in sentences(tmp_path, grpo))


def test_one_run_and_three(tmp_path, grpo):
    assert sentences(tmp_path, grpo)[0].startswith("GRPO raised the reward (0.000 → 1.00) and kept")
    drift = make_run(tmp_path / "drift", "drift", reward=1.1, clip=0.7)
    second = make_run(tmp_path / "drift-2", "drift", reward=1.2, clip=0.9)
    headline, *rest = sentences(tmp_path, grpo, drift, second)
    assert headline == "drift-2 has both the highest reward and the highest diversity."
    assert not any("trained once" in sentence for sentence in rest)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, grpo):
    def refused(*runs):
        with pytest.raises(UserError) as error:
            compare(runs, tmp_path / "out")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "named twice" in refused(grpo, tmp_path / "x" / ".." / "grpo")
    assert "is not a run folder" in refused(tmp_path)
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
    assert f"do `drift evaluate {other}`" in refused(other)
    assert not (tmp_path / "out").exists()


def test_labels_are_different_for_different_runs(tmp_path):
    config = load_recipe("menagerie", ["method=grpo"])
    drift = replace(config, method_name="drift")
    folders = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "y"]
    labels = name_runs(folders, [config, config, drift])
    assert labels == [str(folders[0]), str(folders[1]), "DRIFT"]


def test_a_difference_needs_prompts_and_one_direction():
    ones, twos = (summarise(torch.full((6,), v)) for v in (1.0, 2.0))
    mixed = summarise(torch.tensor([0.0, 2.0] * 3))
    assert (difference(twos, ones), difference(ones, twos), difference(ones, mixed)) == (1, -1, 0)
    few = [summarise(torch.full((4,), v)) for v in (1.0, 2.0)]
    assert difference(few[1], few[0]) == 0
    assert difference(None, ones) == 0 and difference(whole(1.0), ones) == 0


def test_numbers_in_words():
    shown = [number(v) for v in (None, 0.0123, -0.8, 1.234, 12.34, 1234.5)]
    assert shown == ["–", "0.012", "−0.80", "1.23", "12.3", "1,234"]


def test_training_leaves_out_a_line_that_was_cut_off(grpo):
    with (grpo / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "rew')
    first, second = read_training(grpo)
    assert (first["images"], second["images"], second["seconds"]) == (80, 160, 14)


def test_ticks_means_and_labels_of_charts():
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(-0.13, 0.29) == [-0.1, 0, 0.1, 0.2]
    assert nice_ticks(3, 3) == [3]
    points = [(0, 0), (1, 3), (2, 6), (3, 0)]
    assert rolling_mean(points, 3) == [(0, 1.5), (1, 3), (2, 3), (3, 3)]
    assert rolling_mean(points, 1) == points
    assert spread([10, 12, 50], 15, 0, 100) == [10, 25, 50]
    assert spread([98, 99], 15, 0, 100) == [85, 100]


def test_charts_survive_odd_data():
    nan = float("nan")
    for points in ([], [(0, nan)], [(5, 1.0)], [(0, 1.0), (0, 1.0)], [(1, nan), (2, 3.0)]):
        svg = line_chart([Line("<b>", 1, points)], "x & y", "y", '"t"')
        assert "nan" not in svg and "<b>" not in svg
    long = [(k, k % 7) for k in range(50_000)]
    assert len(line_chart([Line("a", 1, long, faint=long)], "x", "y", "t")) < 20_000


def test_sheets_fit_the_page(monkeypatch):
    assert spread_out(10, 4) == [0, 3, 6, 9] and spread_out(3, 24) == [0, 1, 2]
    noise = np.random.default_rng(0).integers(0, 256, (13, 4, 16, 16, 3), np.uint8)
    prompts = [f"prompt {k}" for k in range(13)]
    assert [sheet.prompt for sheet in sheets(prompts, [noise])] == prompts
    monkeypatch.setattr(render, "IMAGE_BUDGET", 30_000)
    made = sheets(prompts, [noise])
    assert len(made) == 6 and sum(len(i) for s in made for i in s.images) < 41_000


def test_a_run_without_a_record_of_its_machine_is_compared(grpo, tmp_path):
    (grpo / "environment.json").unlink()
    page = compare([grpo], tmp_path / "out").read_text(encoding="utf-8")
    assert f"drift train {grpo}" not in page
    assert f"drift evaluate {grpo}" in page


def test_of_the_weights_the_page_has_names_and_one_checksum():
    entry = {"name": "menagerie/model", "path": "/x", "sha256": {"a.json": "1" * 64, "b": "2" * 64}}
    other = {"name": "http://localhost/score"}
    told = describe_environment({"git": None, "weights": {"model": [entry], "reward x": [other]}})
    name, count, checksum = told["weights: model"].split(", ")
    assert (name, count) == ("menagerie/model", "2 files")
    assert re.fullmatch("SHA-256 [0-9a-f]{12}", checksum)
    assert told.keys() == {"git", "weights: model", "weights: reward x"}
    assert told["weights: reward x"] == other["name"]
    entry["sha256"]["b"] = "3" * 64
    again = describe_environment({"weights": {"model": [entry]}})["weights: model"]
    assert again.startswith("menagerie/model, 2 files, ") and not again.endswith(checksum)

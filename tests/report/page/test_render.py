"""The page is one file, it may run one script and one style only, and it stays below 5 MB."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import torch

from drift.config import to_yaml
from drift.evaluation.measures import summarise
from drift.menagerie.scenes import PAINTERS
from drift.recipes import load_recipe
from drift.report.arms import Arm
from drift.report.compare import compare
from drift.report.page.render import describe_environment, settings
from tests.fake_runs import PROMPTS, SETTINGS, make_run, write_evaluation
from tests.report.page.test_payload import run


def element(text: str, opening: str, closing: str) -> str:
    return text.split(opening, 1)[1].split(closing, 1)[0]


def sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"&#39;sha256-{base64.b64encode(digest).decode()}&#39;"


def test_the_page_is_one_safe_file(tmp_path):
    runs = [make_run(tmp_path / "grpo"), make_run(tmp_path / "drift", "drift", clip=0.8)]
    page = compare(runs, tmp_path / "out")
    text = page.read_text()
    assert page == tmp_path / "out" / "report.html"

    # Nothing but this script and this style is allowed, and pictures from within.
    script, style = element(text, "<script>", "</script>"), element(text, "<style>", "</style>")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy == (
        f"default-src &#39;none&#39;; script-src {sha256(script)}; style-src {sha256(style)}; "
        "img-src data:; base-uri &#39;none&#39;; form-action &#39;none&#39;"
    )
    assert re.findall(r"<script[^>]*>", text) == [
        '<script type="application/json" id="data">',
        '<script type="application/json" id="pictures">',
        "<script>",
    ]
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert dangerous not in script

    # The hostile prompts are text in the data, and nothing asks for anything outside.
    data = json.loads(element(text, 'id="data">', "</script>"))
    assert data["prompts"] == PROMPTS
    escaped = json.dumps(PROMPTS[-1])[1:-1].replace("<", r"\u003c").replace(">", r"\u003e")
    own = text.replace(escaped, "")
    assert own != text and "http:" not in own and "https:" not in own
    markup = own.replace(script, "").replace(style, "")
    assert not re.search(r"<[^>]+\s(style|on\w+|src|href)=", markup)
    for word in ("Base model", "GRPO", "DRIFT", "rewarded in no run", "1000000", "<noscript>"):
        assert word in markup


def test_settings_are_told_by_arm():
    def arm(label, method, *seeds):
        return Arm(label, tuple(run({0: {}}, method=method, seed=seed) for seed in seeds))

    differing, common = map(dict, settings([arm("A", "grpo", 1, 2), arm("B", "drift", 1)]))
    assert differing["seed"] == ["1, 2", "1"]
    assert differing["method_name"] == ["grpo", "drift"]
    assert common["sampling.pool_size"] == "20" and "output" not in common | differing


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


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    """45 x 8 painted scenes of the Menagerie, an animal's worth of blots on each."""
    rng = np.random.default_rng(0)
    painters, y, x = list(PAINTERS.values()), *np.mgrid[0:64, 0:64]
    drawn = np.stack([painters[k % len(painters)](rng) for k in range(45 * 8)])
    for picture in drawn:
        for _ in range(12):
            left, top, radius = rng.uniform(16, 48), rng.uniform(20, 54), rng.uniform(2, 12)
            picture[np.hypot(x - left, y - top) < radius] = rng.uniform(0, 1, 3)
    return (255 * drawn.clip(0, 1)).astype(np.uint8).reshape(45, 8, 64, 64, 3)


@pytest.mark.slow
def test_five_runs_of_ten_checkpoints_stay_below_five_megabytes(tmp_path, scenes):
    prompts = [f"an animal number {k}" for k in range(45)]
    asked = SETTINGS | {"prompts": prompts, "images_per_prompt": 8}
    rng = np.random.default_rng(0)
    names = ["reward/pickscore-tiny", "coverage", "right_animal", "scenes", "styles"]
    names += [
        f"{kind}/{encoder}"
        for kind in ("diversity", "vendi", "recall", "precision")
        for encoder in ("dreamsim-tiny", "clip-tiny", "third", "fourth")
    ]
    judged = {name: summarise(torch.from_numpy(rng.normal(size=45))) for name in names}
    numbers = ("reward_std", "kept_mean_shift", "intrinsic_clipped", "approx_kl")
    numbers += ("clip_fraction", "grad_norm", "reference_kl")
    for k in range(5):
        folder = tmp_path / f"run-{k}"
        (folder / "evaluations").mkdir(parents=True)
        config = load_recipe("menagerie", [f"output={folder}", f"optimizer.weight_decay={k / 100}"])
        (folder / "config.yaml").write_text(to_yaml(config))
        with (folder / "metrics.jsonl").open("w") as file:
            for epoch in range(1, 1001):
                line = {"epoch": epoch, "images_sampled": 80 * epoch, "seconds": 1.0}
                line |= {name: rng.normal() for name in (*numbers, "reward_mean", "diversity")}
                file.write(json.dumps(line) + "\n")
        for step in range(0, 1100, 100):
            drawn = scenes[rng.permutation(45)]
            write_evaluation(folder, step, judged, asked, drawn=drawn)

    page = compare(sorted(tmp_path.glob("run-*")), tmp_path / "out")
    film = json.loads(element(page.read_text(), 'id="pictures">', "</script>"))
    assert 4_000_000 < page.stat().st_size < 5_000_000
    assert film["prompts"] == list(range(45)) and film["count"] == 8
    assert [len(steps) for steps in film["steps"]] == [1, 10, 10, 10, 10, 10]

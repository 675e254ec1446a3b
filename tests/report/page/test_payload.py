"""The page's data: literal numbers in, literal numbers out; no text can leave its element."""

import json
from pathlib import Path

from drift.recipes import load_recipe
from drift.report.arms import Arm, Compared, group
from drift.report.page.payload import (
    as_json,
    axes,
    curves_of,
    over_seeds,
    payload,
    plain,
    rolling_mean,
    thinned,
)

NAN, INF = float("nan"), float("inf")


def figure(mean, per_prompt=None):
    return {"mean": mean, "low": None, "high": None, "per_prompt": per_prompt}


def run(figures, training=(), seed=0, method="grpo"):
    """A run with these figures at each step, the base model's first."""
    settings = {"rewards": ["pickscore-tiny"], "encoders": ["dreamsim-tiny", "clip-tiny"]}
    settings["prompts"] = ["a fox"]
    evaluations = {step: {"figures": f, "settings": settings} for step, f in figures.items()}
    config = load_recipe("menagerie", [f"method={method}", f"seed={seed}"])
    return Compared(method, Path(method), config, evaluations, list(training), {})


def test_no_text_ends_its_element():
    hostile = {"p": ["</script>", "<!--<script>", "<img src=http://e.vil/>", "a & b", "\u2028"]}
    text = as_json(hostile)
    assert not set("<>&") & set(text)
    assert json.loads(text) == hostile


def test_numbers_are_short_and_finite():
    shown = [plain(v) for v in (None, NAN, INF, 1.23456, 123456, 1.5e-7, 0.0)]
    assert shown == [None, None, None, 1.235, 123456, 1.5e-7, 0.0]


def test_means_of_neighbours():
    assert rolling_mean([0, 3, 6, 0], 3) == [1.5, 3, 3, 3]
    assert rolling_mean([0, 3, 6, 0], 1) == [0, 3, 6, 0]
    assert rolling_mean([None, 3, None], 1) == [None, 3, None]
    assert thinned([1, 3, None, 5, NAN, INF, 7], 2) == [2, 5, None, 7]


def test_curves_of_one_run_and_of_two():
    def training(*rewards):
        return [{"epoch": k, "images": 10 * k, "reward": r} for k, r in enumerate(rewards, 1)]

    one = Arm("A", (run({0: {}}, training(1.0, 3.0, NAN)),))
    assert curves_of(one, ["reward"], 1) == {
        "epochs": [1, 2, 3],
        "images": [10, 20, 30],
        "smooth": {"reward": [1.0, 3.0, None]},
        "pale": {"reward": [[1.0, 3.0, None]]},
    }
    # The second seed went on for longer: what both have is drawn.
    two = Arm("A", (*one.runs, run({0: {}}, training(3.0, 5.0, 5.0, 9.0), seed=1)))
    curves = curves_of(two, ["reward"], 2)
    assert curves["epochs"] == [2, 3] and curves["images"] == [20, 30]
    assert curves["smooth"] == {"reward": [3.0, 7.0]}
    assert curves["pale"] == {"reward": [[2.0, None], [4.0, 7.0]]}


def test_mean_lowest_and_highest_over_seeds():
    runs = [run({0: {"coverage": figure(c)}, 5: {}}, seed=s) for s, c in enumerate((2.0, 3.0, 7.0))]
    assert over_seeds(Arm("A", tuple(runs)), ["coverage"]) == {
        "steps": [0, 5],
        "figures": {"coverage": [[4.0, 2.0, 7.0], None]},
    }


def test_menus_open_with_what_judges_and_leave_out_what_is_only_possible():
    names = ["diversity/dreamsim-tiny", "possible/pickscore", "gold/pickscore", "wonder/clip-tiny"]
    names += ["recall/clip-tiny", "diversity/clip-tiny", "coverage", "reward/pickscore-tiny"]
    menus = axes(group([run({0: {name: figure(1.0) for name in names}}, method="drift")]))
    assert [entry["words"] for entry in menus["gained"]] == [
        "reward, pickscore-tiny",
        "gold utility, pickscore",
    ]
    assert [(entry["words"], entry["percent"]) for entry in menus["kept"]] == [
        ("ground-truth coverage", False),
        ("diversity, clip-tiny", False),
        ("diversity, dreamsim-tiny (rewarded)", False),
        ("wonder, clip-tiny", False),
        ("recall, clip-tiny", True),
    ]


def test_what_the_script_gets_of_a_run():
    figures = {"reward/pickscore-tiny": figure(1.0, [1.0]), "coverage": figure(None, [None])}
    point = {"epoch": 5, "images": 40, "reward": 1.0, "diversity": 0.0, "grad_norm": 0.5}
    made = payload([Arm("A", (run({0: figures, 5: figures}, [point]),))])
    assert made["steps"] == [0, 5] and made["prompts"] == ["a fox"]
    (arm,) = made["arms"]
    assert arm["mean"] is None
    assert arm["runs"][0]["images"] == [0, 40]
    assert arm["runs"][0]["figures"]["coverage"] == [[None, None, None]] * 2
    assert arm["runs"][0]["prompts"]["coverage"] == [[None]] * 2
    # The diversity of this run was 0 throughout: no curve.
    assert [entry["words"] for entry in made["curves"]] == [
        "reward, pickscore-tiny",
        "gradient norm",
    ]
    json.dumps(made, allow_nan=False)

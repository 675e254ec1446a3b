"""The figures: right numbers at their places, text as text, the same bytes from the same input."""

import re
import sys
from dataclasses import replace
from importlib import import_module
from importlib.resources import files
from math import cos, exp, pi, sin
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from drift.errors import UserError
from drift.evaluation.measures import summarise, whole
from drift.evaluation.stored import evaluation_folder
from drift.recipes import load_recipe
from drift.report import plots
from drift.report.arms import Compared, group
from drift.report.comparison import comparison
from drift.report.gains import Gain, Scale
from drift.report.plots import bars, contours, frontiers, grids, style
from drift.report.plots.style import plain

PROMPTS = ["a fox", "a $5 cat & <b>dog</b>", "a bee\nand\x00 a cow", "a wolf " * 30, "an ant"]


def judged(reward, diversity, P, coverage=True):
    wobble = torch.linspace(-0.02, 0.02, P)
    found = {
        "reward/pickscore-tiny": summarise(reward + wobble),
        "diversity/dreamsim-tiny": summarise(1.2 * diversity + wobble),
        "diversity/clip-tiny": summarise(0.4 * diversity + wobble.flip(0)),
        "recall/clip-tiny": summarise(0.9 * diversity + wobble),
        "vendi/clip-tiny": summarise(1 + 5 * diversity + wobble),
        "vendi_all/clip-tiny": whole(30 * diversity),
    }
    return found | ({"coverage": summarise(8 * diversity + wobble)} if coverage else {})


def make_run(folder, method, seed, speed, *, steps, prompts=PROMPTS, N=4, D=8, side=16, **told):
    """A run whose reward rises from 0.2 and whose pictures grow alike, at a `speed`."""
    config = load_recipe("menagerie", [f"method={method}", f"output={folder}", f"seed={seed}"])
    P, evaluations = len(prompts), {}
    settings = {
        "prompts": prompts,
        "images_per_prompt": N,
        "rewards": ["pickscore-tiny"],
        "encoders": ["dreamsim-tiny", "clip-tiny"],
    }
    for step in steps:
        draws = np.random.default_rng([step, seed if step else 0])
        share = step / max(steps)
        left = (1 - share) ** speed  # of the base model's spread
        reward = 0.2 + 0.6 * share**0.7 * (1 + 0.02 * seed)
        figures = judged(reward, 0.3 + 0.7 * left, P, **told)
        evaluations[step] = {"settings": settings, "figures": figures}
        target = evaluation_folder(folder, step)
        target.mkdir(parents=True)
        means = np.random.default_rng(7).normal(size=(P, 1, D))
        noise = np.random.default_rng(8).normal(size=(P, N, D)) * np.linspace(1.5, 0.2, D)
        features = torch.from_numpy(means + left * noise + 0.5 * (1 - left)).float()
        save_file({"clip-tiny": features}, target / "features.safetensors")
        pixels = draws.integers(0, 256, (P, N, side, side, 3), np.uint8)
        np.savez_compressed(target / "images.npz", images=pixels)
    return Compared(f"{method}-{seed}", folder, config, evaluations, [], {})


def make_arms(folder, methods=("drift", "grpo"), seeds=(1, 2), steps=(0, 5, 10), **sizes):
    return group(
        [
            make_run(folder / f"{method}-{seed}", method, seed, 0.5 + k, steps=steps, **sizes)
            for k, method in enumerate(methods)
            for seed in seeds
        ]
    )


def figures_of(arms, gains=(), bounds=(0.0, 1.0)):
    scale = Scale("pickscore-tiny", *bounds)
    return replace(comparison(arms), scale=scale, gains=tuple(gains))


def gain(measure="diversity/clip-tiny", mean=0.25, **changes):
    some = Gain("DRIFT", "GRPO", "DG", measure, "exceeding", "last", mean, None, None, 2, 2, 2, 2)
    return replace(some, **changes)


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    return make_arms(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def drawn(arms, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return plots.draw(figures_of(arms, [gain()], (0.2, 0.8)), out)


def test_every_figure_is_written_as_svg_and_pdf_and_pixels_as_webp_too(drawn):
    names = ("frontiers", "gains", "contours", "grids", "watch")
    expected = {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    assert {path.name for path in drawn} == expected | {
        f"{name}.webp" for name in ("contours", "grids", "watch")
    }
    assert {path.parent.name for path in drawn} == {"figures"}
    starts = {".svg": b"<?xml", ".pdf": b"%PDF", ".webp": b"RIFF"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in drawn)


def test_the_same_input_gives_the_same_bytes(arms, drawn, tmp_path, monkeypatch):
    some = {name: plots.FIGURES[name] for name in ("contours", "watch")}
    monkeypatch.setattr(plots, "FIGURES", some)
    first = {path.name: path.read_bytes() for path in drawn}
    for path in plots.draw(figures_of(arms, (), (0.2, 0.8)), tmp_path):
        assert path.read_bytes() == first[path.name], path.name


def texts(path):
    """All text of an SVG, which parses."""
    return [node.text for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_text_is_text_whatever_is_in_a_prompt(drawn):
    by_name = {path.name: path for path in drawn}
    shown = texts(by_name["grids.svg"])
    assert {"a fox", "a $5 cat & <b>dog</b>", "an ant"} <= set(shown)
    assert any(text.startswith("a wolf a wolf") and text.endswith("…") for text in shown)
    assert {"Base model", "DRIFT", "GRPO"} <= set(shown)
    watched = texts(by_name["watch.svg"])
    assert {"epoch 5", "epoch 10"} <= set(watched)
    assert any(text.startswith("“a bee and a cow”, the same seeds") for text in watched)
    assert {"DRIFT", "Pareto frontier", "normalised reward"} <= set(texts(by_name["frontiers.svg"]))


def test_a_prompt_is_cut_and_printable():
    assert plain("a $5 cat & <b>dog</b>", 40) == "a $5 cat & <b>dog</b>"
    assert plain(" a\nfox\x00\x1b  x", 40) == "a fox x"
    assert plain("abcdef", 4) == "abc…"


def test_pictures_in_an_svg_are_jpeg_and_the_contours_transparent_png(drawn):
    by_name = {path.name: path.read_text() for path in drawn if path.suffix == ".svg"}
    assert re.findall("data:image/[a-z]+", by_name["grids.svg"]) == ["data:image/jpeg"]
    assert set(re.findall("data:image/[a-z]+", by_name["contours.svg"])) == {"data:image/png"}


def test_colours_are_the_pages():
    page = (files("drift.report.page") / "page.css").read_text(encoding="utf-8")
    light = re.findall(r"--c\d: light-dark\((#\w{6})", page)
    assert tuple(light) == (style.BASE, *style.COLOURS)
    for name in ("ink", "soft", "rule"):
        assert f"--{name}: light-dark({getattr(style, name.upper())}" in page


def test_a_frontier_is_drawn_at_normalised_rewards(arms):
    # Seeds 1 and 2 end at 0.2 + 0.6·1.02 and 0.2 + 0.6·1.04, in mean at 0.818.
    compared = figures_of(arms, bounds=(0.2, 1.2))
    course = frontiers.course(compared, arms[0], "diversity/clip-tiny")
    assert course.shape == (3, 2, 2)
    torch.testing.assert_close(course[0], torch.tensor([[0.0, 0.4]] * 2).double())
    torch.testing.assert_close(course[2, :, 0], torch.tensor([0.612, 0.624]).double())
    torch.testing.assert_close(course[2, :, 1], torch.tensor([0.12, 0.12]).double())
    figure = frontiers.frontiers(compared)
    panel = figure.axes[0]
    assert panel.get_ylabel() == "Diversity\nclip-tiny"
    strong = [line for line in panel.lines if line.get_marker() in style.MARKERS[:2]]
    assert strong[0].get_xdata()[-1] == pytest.approx(0.618)
    pale = [line for line in panel.lines if line.get_alpha() == 0.35]
    assert len(pale) == 4


def test_rings_are_around_what_no_other_point_beats(arms):
    # At every reward the second arm has fewer modes; both end at the same point.
    panel = frontiers.frontiers(figures_of(arms, bounds=(0.2, 1.2))).axes[0]
    [ring] = [line for line in panel.lines if line.get_markerfacecolor() == "none"]
    first = frontiers.course(figures_of(arms, bounds=(0.2, 1.2)), arms[0], "diversity/clip-tiny")
    assert sorted(set(ring.get_xdata())) == pytest.approx(first.mean(1)[:, 0].tolist())


def test_bars_of_a_frontier_are_over_prompts_of_the_change(tmp_path):
    steps, P = (0, 4), 6
    [arm] = make_arms(tmp_path, ("grpo",), (1,), steps, prompts=["x"] * P)
    name = "diversity/clip-tiny"
    # Every prompt falls by 0.28, however different prompts are.
    torch.testing.assert_close(
        frontiers.change_interval(arm, name), torch.zeros(2).double(), atol=1e-6, rtol=0
    )
    figure = arm.runs[0].evaluations[4]["figures"][name]
    figure["per_prompt"][0] = None
    assert frontiers.change_interval(arm, name).abs().max() < 1e-6
    figure["per_prompt"][1] += 6.0  # of five known: 0 or more of it in each resample
    low, high = frontiers.change_interval(arm, name).tolist()
    assert low == pytest.approx(-1.2) and high > 1
    figure["per_prompt"][2] = None
    assert frontiers.change_interval(arm, name).isnan().all()


def test_panels_are_of_what_was_measured(tmp_path):
    arms = make_arms(tmp_path, ("grpo",), (1,), (0, 4), coverage=False)
    compared = figures_of(arms)
    # No shaping, so the first encoder judges, and of it there are no recall and Vendi here.
    assert compared.encoder == "dreamsim-tiny"
    assert frontiers.measures(compared) == ["diversity/dreamsim-tiny", "diversity/clip-tiny"]


def bars_and_words(figure, panel=0):
    ax = figure.axes[panel]
    return [bar.get_height() for bar in ax.patches], [text.get_text() for text in ax.texts]


def test_bars_are_percent_and_what_was_not_reached_is_words(arms):
    gains = [
        gain(mean=0.254, low=0.1, high=0.4),
        gain(mean=-0.5, kind="RG", reached=1),
        gain("coverage", None, reached=0),
    ]
    figure = bars.gain_bars(figures_of(arms, gains))
    heights, words = bars_and_words(figure)
    assert heights == pytest.approx([25.4, -50.0])
    assert words == ["+25", "−50\n(1/2)", "not reached"]
    # The reward's group comes last, whatever the order of the gains.
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Diversity\nclip-tiny", "Ground-truth\ncoverage", "Reward"]
    whiskers = [
        line.get_ydata() for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1
    ]
    assert np.allclose(whiskers, [[10.0, 40.0]])


def test_a_wide_interval_does_not_flatten_the_bars(arms):
    figure = bars.gain_bars(figures_of(arms, [gain(mean=0.2, low=-5.0, high=0.3)]))
    drawn = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    line, arrow = drawn  # cut at twice the longest bar
    assert np.allclose(line.get_ydata(), [-40.0, 30.0])
    assert (arrow.get_marker(), list(arrow.get_ydata())) == ("v", [-40.0])
    assert figure.axes[0].get_ylim()[0] > -60


def test_each_protocol_has_its_panel_and_no_gains_no_figure(arms):
    figure = bars.gain_bars(figures_of(arms, [gain(), gain(by="interpolation", mean=0.1)]))
    assert [bars_and_words(figure, k)[0] for k in (0, 1)] == [[25.0], [10.0]]
    assert bars.gain_bars(figures_of(arms)) is None


def test_a_plane_is_the_base_models_principal_components():
    # One prompt; unit vectors at ±θ in the first plane and ±φ in the second, around e3.
    a, b = 0.3, 0.1
    rows = [[sin(a), 0, cos(a), 0], [-sin(a), 0, cos(a), 0]]
    rows += [[0, sin(b), cos(b), 0], [0, -sin(b), cos(b), 0]]
    features = 7 * torch.tensor([rows], dtype=torch.float32)  # their length does not count
    plane = contours.fit_plane(features)
    along = plane.axes.abs()
    torch.testing.assert_close(along[0], torch.tensor([1.0, 0, 0, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(along[1], torch.tensor([0, 1.0, 0, 0]).double(), atol=1e-6, rtol=0)
    points = plane.project(features)
    assert points.abs().amax(0).tolist() == pytest.approx([sin(a), sin(b)], abs=1e-6)
    rest = (cos(a) - cos(b)) ** 2  # four rows at half of this difference from their mean
    total = 2 * sin(a) ** 2 + 2 * sin(b) ** 2 + rest
    assert plane.shares[0].item() == pytest.approx(2 * sin(a) ** 2 / total, rel=1e-5)
    std = (2 * sin(a) ** 2 / 3) ** 0.5
    assert plane.width[0].item() == pytest.approx(std * 4 ** (-1 / 6), rel=1e-5)


def test_a_point_mass_is_a_blob_of_the_kernels_size():
    x = torch.tensor([-1.0, 0.0, 2.0]).double()
    p = contours.density(torch.zeros(5, 2).double(), x, x, torch.tensor([1.0, 2.0]).double())
    peak = 1 / (2 * pi * 1 * 2)
    assert p[1, 1].item() == pytest.approx(peak)
    assert p[1, 2].item() == pytest.approx(peak * exp(-2))  # y = 0, x = 2 widths
    assert p[2, 1].item() == pytest.approx(peak * exp(-0.5))  # y = 1 width, x = 0


def test_the_base_models_density_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    draws = np.random.default_rng(0).normal(size=(2, 20, 6))
    plane = contours.fit_plane(torch.from_numpy(draws))
    points = plane.project(torch.from_numpy(draws))
    x = torch.linspace(-1, 1, 7).double()
    ours = contours.density(points, x, x + 0.1, plane.width)
    mesh = np.stack([axis.ravel() for axis in np.meshgrid(x, x + 0.1)])
    theirs = stats.gaussian_kde(points.numpy().T)(mesh).reshape(7, 7)
    assert np.allclose(ours, theirs, rtol=1e-6)


def test_contours_of_a_collapsed_model_stay_on_the_base_models_scale(tmp_path):
    arms = make_arms(tmp_path, ("grpo",), (1,), (0, 5, 10))
    for step, value in ((5, None), (10, 1.0)):
        path = evaluation_folder(arms[0].runs[0].run, step) / "features.safetensors"
        same = torch.ones(len(PROMPTS), 4, 8) if value else torch.eye(8)[:4].expand(5, 4, 8)
        save_file({"dreamsim-tiny": same.contiguous()}, path)
    base = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 4, 8))).float()
    path = evaluation_folder(arms[0].runs[0].run, 0) / "features.safetensors"
    save_file({"dreamsim-tiny": base}, path)
    figure = contours.contours(figures_of(arms))
    panels = [ax for ax in figure.axes if ax.collections]
    assert len(panels) == 3
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in panels}) == 1
    levels = [tuple(ax.collections[0].levels) for ax in panels]
    assert len(set(levels)) == 1
    assert np.allclose(np.diff(np.log2(levels[0])), 1)  # each twice the one before


def solid(P, shade):
    """Pictures of one shade for each prompt."""
    pixels = np.full((P, 4, 60, 60, 3), shade, np.uint8)
    return pixels + 20 * np.arange(P, dtype=np.uint8)[:, None, None, None, None]


def test_a_sheet_holds_each_cell_at_its_place(monkeypatch):
    cells = [[solid(2, shade)[row] for shade in (40, 140, 240 - 20)] for row in (0, 1)]
    sheet, tile = grids._fitting(cells)
    assert tile == 60
    for r, row in enumerate(cells):
        for c, pictures in enumerate(row):
            for k in range(4):
                x = c * sheet.across + k % 2 * (tile + 4) + 5
                y = sheet.line + r * sheet.down + sheet.line + k // 2 * (tile + 4) + 5
                got = sheet.image.getpixel((x, y))
                assert max(abs(v - int(pictures[k, 0, 0, 0])) for v in got) <= 2
    larger = [[np.zeros((4, 256, 256, 3), np.uint8)]]
    assert grids._fitting(larger)[1] == 96
    monkeypatch.setattr(grids, "BUDGET", 10)
    assert grids._fitting(larger)[1] == 60


def test_grids_show_the_last_step_of_each_arms_first_seed(arms, monkeypatch):
    read = []
    monkeypatch.setattr(
        Compared, "pictures", lambda run, step: read.append((run.label, step)) or solid(5, 0)
    )
    grids.grids(figures_of(arms))
    assert read == [("drift-1", 0), ("drift-1", 10), ("grpo-1", 10)]
    read.clear()
    grids.watch(figures_of(arms))
    assert read == [(run, step) for run in ("drift-1", "grpo-1") for step in (0, 5, 10)]


def test_what_cannot_be_drawn_is_one_clear_line(arms, tmp_path):
    broken = make_arms(tmp_path, ("drift",), (1,), (0, 5))
    folder = evaluation_folder(broken[0].runs[0].run, 5)
    (folder / "features.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="cannot read clip-tiny in .*step-000005"):
        contours.contours(figures_of(broken))
    (folder / "images.npz").unlink()
    with pytest.raises(UserError, match="cannot read .*step-000005/images.npz"):
        grids.grids(figures_of(broken))


def test_without_matplotlib_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("drift.report.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'drift-rft\[figures\]'"):
        import_module("drift.report.plots")

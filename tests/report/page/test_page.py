"""The page in Chromium, from disk: what moves, moves; nothing complains, nothing is asked for."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from drift.report.compare import compare
from tests.fake_runs import PROMPTS, make_run

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        assert path, "these tests want a Chromium, Debian's for example"
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """GRPO at steps 0, 1 and 2, DRIFT at 0 and 2."""
    folder = tmp_path_factory.mktemp("two")
    grpo = make_run(folder / "grpo", between=[1])
    return compare([grpo, make_run(folder / "drift", "drift", clip=0.8)], folder / "out")


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    runs = [
        make_run(folder / f"{method}-{seed}", method, reward=1.0 + seed, changes=[f"seed={seed}"])
        for method in ("grpo", "drift")
        for seed in (1, 3)
    ]
    return compare(runs, folder / "out")


@pytest.fixture
def visit(chromium):
    """Opens a page from disk; in the end nothing was complained of, asked for outside, or run."""
    opened, wrong = [], []

    def opening(path, before="", **options):
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        context = chromium.new_context(**options)
        opened.append(context)
        if before:
            context.add_init_script(before)
        page, url = context.new_page(), path.resolve().as_uri()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url in (url, "")
                or request.url.startswith("data:image/webp")
                or wrong.append(request.url)
            ),
        )
        page.goto(url)
        return page

    yield opening
    for context in opened:
        context.close()
    assert wrong == []


def colour(page, model: int) -> np.ndarray:
    """The middle of a model's second picture as the screen shows it: RGB."""
    shot = page.locator("#models img").nth(model).screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    return pixels[height // 2, width * 3 // 8]


def shows(page, model: int, step: int, prompt: int) -> bool:
    """Whether this model's picture is of this step and prompt (see `fake_runs.pictures`)."""
    return bool(np.abs(colour(page, model) - [60 * step, 50 * prompt, 40]).max() <= 12)


def moving(page) -> dict[str, str]:
    return {
        "when": page.locator("#when b").inner_text(),
        "step": page.locator("#step").input_value(),
    }


def test_the_slider_moves_the_pictures_of_all_methods(visit, two_runs):
    page = visit(two_runs)
    captions = page.locator("#models figcaption")
    expect(captions).to_have_text(["Base model", "GRPO", "DRIFT"])
    expect(page.locator("#when")).to_have_text("Epoch 2160 images")
    assert [shows(page, model, step, 0) for model, step in enumerate((0, 2, 2))] == [True] * 3
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    # DRIFT was not evaluated at step 1: it stays at the step before, and says so.
    expect(captions).to_have_text(["Base model", "GRPO", "DRIFTbase model"])
    assert [shows(page, model, step, 0) for model, step in enumerate((0, 1, 0))] == [True] * 3
    expect(page.locator("#step")).to_have_attribute("aria-valuetext", "Epoch 1, 80 images")
    beside = page.locator("#models .beside").nth(1)
    expect(beside).to_have_text(
        re.compile(r"reward0\.480diversity0\.510ground-truth coverage4\.98")
    )
    page.keyboard.press("Home")
    expect(page.locator("#when")).to_have_text("Base model")
    assert all(shows(page, model, 0, 0) for model in range(3))


def test_every_prompt_can_be_chosen_and_every_picture_decodes(visit, two_runs):
    page = visit(two_runs)
    for place, prompt in enumerate(PROMPTS):
        page.locator("#prompt").select_option(label=prompt)
        assert shows(page, 1, 2, place)
        for step in ("0", "1", "2"):
            page.locator("#step").fill(step)
            for image in page.locator("#models img").all():
                image.evaluate("image => image.decode()")
                assert image.evaluate("image => image.complete && image.naturalWidth") == 128
                assert f"4 pictures of “{prompt}”" in image.get_attribute("alt")
    page.locator("#next").click()
    assert page.locator("#prompt").input_value() == "0" and shows(page, 1, 2, 0)
    page.locator("#previous").click()
    assert page.locator("#prompt").input_value() == "4" and shows(page, 1, 2, 4)


def test_prompts_full_of_html_are_text(visit, two_runs):
    page = visit(two_runs)
    assert page.locator("#prompt option").all_inner_texts() == PROMPTS
    assert page.locator("script").count() == 3
    assert page.locator("img").count() == 3  # the prompt's own is none
    for url in page.locator("img").evaluate_all("all => all.map(image => image.src)"):
        assert url.startswith("data:image/webp;base64,")


def test_the_policy_lets_nothing_else_run(visit, two_runs, chromium):
    context = chromium.new_context()
    page, refused = context.new_page(), []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(two_runs.resolve().as_uri())
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'run'";
          document.body.append(script);
          const image = "<img src=x onerror='document.title = 1'>";
          document.body.insertAdjacentHTML("beforeend", image);
        }"""
    )
    page.wait_for_timeout(200)
    assert "same prompts" in page.title() and len(refused) >= 2
    context.close()


def test_the_measures_of_the_frontier_are_switched(visit, two_runs):
    page = visit(two_runs)
    names = page.locator("#frontier .name")
    expect(names).to_have_text(["reward, pickscore-tiny", "ground-truth coverage"])
    dots = page.locator("#frontier circle.dot")
    expect(dots).to_have_count(5)
    assert not page.locator("#gained").is_visible()  # one reward: nothing to choose
    before = dots.nth(4).get_attribute("cy")
    page.locator("#kept").select_option("diversity/clip-tiny")
    expect(names).to_have_text(["reward, pickscore-tiny", "diversity, clip-tiny"])
    assert dots.nth(4).get_attribute("cy") != before
    page.locator("#kept").select_option("vendi_all/clip-tiny")  # the same throughout
    expect(dots).to_have_count(5)


def test_points_are_told_and_lead_to_their_step(visit, two_runs):
    page = visit(two_runs)
    page.locator("#frontier").scroll_into_view_if_needed()
    tip, dots = page.locator("#frontier .tip"), page.locator("#frontier circle.dot")
    dots.nth(1).hover()
    expect(tip).to_contain_text("GRPO, epoch 1, 80 images")
    expect(tip).to_contain_text("reward, pickscore-tiny: 0.500 (95 %: 0.488 to 0.512)")
    expect(page.locator("#frontier .halo")).to_have_count(2)
    dots.nth(1).click()
    assert moving(page) == {"when": "Epoch 1", "step": "1"}
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    page.locator("#curve1 circle.dot").last.hover()
    expect(page.locator("#curve1 .tip")).to_contain_text("reward, pickscore-tiny: 0.10")


def test_everything_is_reached_by_the_keyboard(visit, two_runs):
    page = visit(two_runs)
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = ["theme", "play", "step", "prompt", "previous", "next", "kept", "BUTTON", "BUTTON"]
    wanted += ["circle", "BUTTON", "BUTTON", "curve1-key", "curve2-key"]
    assert seen[: len(wanted)] == wanted  # the frontier's points are one stop

    page.locator("#frontier circle[tabindex='0']").focus()
    expect(page.locator("#frontier .tip")).to_contain_text("GRPO, base model")
    page.keyboard.press("ArrowRight")
    focused = page.locator("circle:focus")
    expect(focused).to_have_attribute("aria-label", re.compile("^GRPO, epoch 1, 80 images; reward"))
    page.keyboard.press("Enter")
    assert moving(page) == {"when": "Epoch 1", "step": "1"}
    expect(focused).to_have_attribute("aria-label", re.compile("^GRPO, epoch 1"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("aria-label", re.compile("^DRIFT, epoch 2"))
    expect(page.locator("#frontier [tabindex='0']")).to_have_count(1)


def test_an_arm_is_hidden_and_shown(visit, two_runs):
    page = visit(two_runs)
    page.locator(".legend button", has_text="GRPO").first.click()
    expect(page.locator("#frontier circle.dot")).to_have_count(2)
    expect(page.locator("#curve1 .line:not(.faint)")).to_have_count(1)
    expect(page.locator(".legend button[aria-pressed='false']")).to_have_text(["GRPO", "GRPO"])
    page.locator(".legend button", has_text="DRIFT").first.click()
    expect(page.locator("#frontier")).to_contain_text("Nothing was recorded")
    page.locator(".legend button", has_text="GRPO").last.click()
    expect(page.locator("#frontier circle.dot")).to_have_count(3)


def test_playing_runs_through_the_steps_and_stops(visit, two_runs):
    page = visit(two_runs, reduced_motion="no-preference")
    play = page.get_by_role("button", name="Play")
    play.click()
    expect(page.locator("#when b")).to_have_text("Base model")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator("#when b")).to_have_text("Epoch 1")
    expect(page.locator("#when b")).to_have_text("Epoch 2")
    expect(play).to_be_visible()


def test_with_reduced_motion_a_press_is_one_step(visit, two_runs):
    page = visit(two_runs)
    page.get_by_role("button", name="Next step").click()
    assert moving(page) == {"when": "Base model", "step": "0"}
    page.get_by_role("button", name="Next step").click()
    assert moving(page) == {"when": "Epoch 1", "step": "1"}


def background(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


LIGHT, DARK = "rgb(251, 250, 248)", "rgb(20, 23, 27)"


def test_dark_and_light(visit, two_runs):
    page = visit(two_runs, color_scheme="dark")
    assert background(page) == DARK
    page.locator("#theme").click()
    assert background(page) == LIGHT
    page.reload()
    assert background(page) == LIGHT  # remembered
    page.locator("#theme").click()
    assert background(page) == DARK
    assert background(visit(two_runs, color_scheme="light")) == LIGHT


def test_a_page_that_may_store_nothing_still_has_its_switch(visit, two_runs):
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    page = visit(two_runs, before=forbid, color_scheme="light")
    page.locator("#theme").click()
    assert background(page) == DARK


def test_on_a_phone(visit, two_runs):
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    page = visit(two_runs, **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # The slider stays in reach while pictures and charts go by.
    for place in ("#models", "#frontier", "#curve2"):
        page.locator(place).evaluate("element => element.scrollIntoView({block: 'center'})")
        box = page.locator("#step").bounding_box()
        assert 0 <= box["y"] < 60 and box["width"] > 100
    page.locator("#step").fill("1")
    assert shows(page, 1, 1, 0)
    page.locator("#frontier circle.dot").nth(4).tap()  # DRIFT's last, which lies over GRPO's
    tip, chart = page.locator("#frontier .tip"), page.locator("#frontier svg")
    expect(page.locator("#curve2 .tip")).to_be_visible()  # its hint keeps the place
    expect(tip).to_contain_text("DRIFT")
    below = chart.bounding_box()["y"] + chart.bounding_box()["height"]
    assert tip.bounding_box()["y"] >= below  # and hides nothing of the chart
    expect(page.locator("#when b")).to_have_text("Epoch 2")
    page.set_viewport_size({"width": 740, "height": 360})
    expect(page.locator("#frontier svg")).to_have_attribute("viewBox", re.compile("^0 0 6[0-9]{2}"))


def test_seeds_are_drawn_faintly_and_chosen(visit, two_seeds):
    page = visit(two_seeds)
    captions = page.locator("#models figcaption")
    expect(captions).to_have_text(["Base model", "GRPOseed 1", "DRIFTseed 1"])
    page.locator("#seed").select_option("3")
    expect(captions).to_have_text(["Base model", "GRPOseed 3", "DRIFTseed 3"])
    expect(page.locator("#models .beside").nth(1)).to_contain_text("reward3.98")
    expect(page.locator("#frontier .line.faint")).to_have_count(4)
    expect(page.locator("#frontier .line:not(.faint)")).to_have_count(2)
    labels = [
        circle.get_attribute("aria-label") for circle in page.locator("#frontier circle.dot").all()
    ]
    mean = [label for label in labels if "GRPO, mean of 2 seeds, epoch 2;" in label]
    assert len(mean) == 1 and "pickscore-tiny: 3.00 (seeds: 2.00 to 4.00)" in mean[0]
    assert any(label.startswith("GRPO, seed 3, epoch 2, 160 images; ") for label in labels)


def test_without_its_script_the_page_has_words_and_numbers(visit, two_runs):
    page = visit(two_runs, java_script_enabled=False)
    expect(page.locator("noscript .note")).to_be_visible()
    expect(page.locator(".verdict h2")).to_be_visible()
    expect(page.locator(".figures table")).to_be_visible()
    expect(page.locator("#live")).to_be_hidden()


def test_runs_without_metrics_are_shown(visit, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    page = visit(compare([run], tmp_path / "out"))
    expect(page.locator("#curve1")).to_contain_text("Nothing was recorded")
    expect(page.locator("#frontier circle.dot")).to_have_count(2)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("niceTicks(0, 10)", [0, 2, 4, 6, 8, 10]),
        ("niceTicks(-0.13, 0.29)", [-0.1, 0, 0.1, 0.2]),
        ("niceTicks(3, 3)", [3]),
        ("spread([10, 12, 50], 15, 0, 100)", [10, 25, 50]),
        ("spread([98, 99], 15, 0, 100)", [85, 100]),
        ("range([2, 2], 0.1)", [1, 3]),
        ("paretoFront([{x: 2, y: 1}, {x: 1, y: 2}, {x: 1, y: 1}]).map(p => p.x)", [1, 2]),
        ("[null, 0.0123, -0.8, 1.234, 12.34, 1234.5, 0, 0.00012].map(v => number(v))",
         ["–", "0.012", "−0.800", "1.23", "12.34", "1,235", "0.000", "1.2e−4"]),
        ("[number(0.876, true), tickText(0.5, true), tickText(-20000)]", ["88 %", "50 %", "−20k"]),
        ("[reached([0, 5, 9], 8), reached([5], 1)]", [1, -1]),
        ("shortened(['DRIFT', 'DRIFT-CONTRASTED', 'DRIFT-RANDOM'], 6)",
         ["DRIFT", "…ASTED", "…ANDOM"]),
        ("shortened(['a long name', 'another name'], 6)", ["a lon…", "anoth…"]),
    ],
)  # fmt: skip
def test_functions_by_hand(visit, two_runs, call, expected):
    assert visit(two_runs).evaluate(call) == expected

"""Contact sheets: what their labels cost and how they are cut."""

import time

import numpy as np
from PIL import ImageFont

from drift.evaluation.sheets import _fitting, block, contact_sheet
from drift.report.page.pictures import fit


def test_a_label_is_cut_at_the_last_letter_that_fits():
    font = ImageFont.load_default(size=12)
    width = int(font.getlength("a fox in…"))
    assert _fitting("a fox in the snow", font, width) == "a fox in…"
    assert _fitting("a fox", font, width) == "a fox"
    assert _fitting("", font, width) == ""


def test_a_long_prompt_costs_no_more_than_a_short_one():
    images, seconds = np.zeros((1, 2, 16, 16, 3), np.uint8), {}
    contact_sheet(images, ["warm up"])
    for length in (20, 4000):
        start = time.process_time()
        contact_sheet(images, ["wolf " * (length // 5)])
        seconds[length] = time.process_time() - start
    assert seconds[4000] < seconds[20] + 0.1  # it took 26 s


def test_pictures_keep_their_proportions():
    wide = np.full((1, 8, 16, 3), 200, np.uint8)
    wide[:, :, 8:] = 50
    tile = np.asarray(block(wide, 1, 32).convert("RGBA"))
    assert (tile[8:24, :, 3] == 255).all()  # 16 rows in the middle
    assert (tile[:8, :, 3] == 0).all()
    assert (tile[24:, :, 3] == 0).all()
    assert tile[16, 2, 0] == 200
    assert tile[16, 29, 0] == 50
    on_grey = fit(wide, 32)[0]
    assert (on_grey[:8] == 128).all()
    assert on_grey[16, 2, 0] == 200

"""Contact sheets: what their labels cost and how they are cut."""

import time

import numpy as np
from PIL import ImageFont

from drift.evaluation.sheets import _fitting, contact_sheet


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

"""One name for each figure, for tables, plots, page and terminal."""

from drift.report.wording import capital, in_words, wording


def test_a_figure_is_named_with_its_judge():
    assert in_words("diversity/clip-tiny") == "diversity, clip-tiny"
    assert in_words("right_animal") == "right animal"
    assert wording("recall/clip-tiny").share and not wording("vendi/clip-tiny").share


def test_what_is_not_listed_goes_by_its_own_name():
    assert in_words("edge_length/sobel") == "edge length, sobel"


def test_a_great_letter_first_and_the_others_left():
    assert [capital(text) for text in ("Vendi of the set", "reward, CLIP", "")] == [
        "Vendi of the set",
        "Reward, CLIP",
        "",
    ]

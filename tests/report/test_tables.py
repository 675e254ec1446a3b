"""Tables in three formats: read, paste, compute with."""

import csv

from drift.report.tables import Cell, Table, signed_percent, to_csv, to_latex, to_markdown

TABLE = Table(
    "t",
    "Gains & losses",
    ["", "Over", "Value"],
    [
        ["DRIFT_1", "GRPO|x", Cell(0.4346, 0.1, 0.7, signed_percent, "1 of 2")],
        ["A", "B", Cell(None, aside="not reached")],
        ["A", "B", "–"],
    ],
    notes=["100 % of it."],
)


def test_markdown_is_read():
    assert to_markdown(TABLE) == (
        "### Gains & losses\n\n|  | Over | Value |\n|---|---|---|\n"
        "| DRIFT_1 | GRPO\\|x | +43.5 % (+10.0 % to +70.0 %), 1 of 2 |\n"
        "| A | B | not reached |\n| A | B | – |\n\n* 100 % of it.\n"
    )


def test_csv_has_every_digit():
    header, one, two, three = csv.reader(to_csv(TABLE).splitlines())
    assert header == ["", "Over", "Value", "Value low", "Value high", "Value note"]
    assert one == ["DRIFT_1", "GRPO|x", "0.4346", "0.1", "0.7", "1 of 2"]
    assert two == ["A", "B", "", "", "", "not reached"]
    assert three == ["A", "B", "–", "", "", ""]


def test_latex_is_pasted():
    text = to_latex(TABLE)
    assert r"\caption{Gains \& losses. 100 \% of it.}" in text
    assert r"\begin{tabular}{llr}" in text
    assert r"DRIFT\_1 & GRPO|x & +43.5 \% (+10.0 \% to +70.0 \%), 1 of 2 \\" in text
    assert text.count(r"\\") == 4 and text.index(r"\toprule") < text.index(r"\bottomrule")


def test_signs_are_true():
    assert (signed_percent(-0.05), signed_percent(None)) == ("−5.0 %", "–")
    assert "$-$5.0" in to_latex(Table("t", "", ["a"], [[Cell(-0.05, show=signed_percent)]]))

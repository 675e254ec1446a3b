"""Tables in three formats: read, paste, compute with."""

import csv
import io

from drift.report.tables import (
    Cell,
    Table,
    markdown,
    signed_percent,
    to_csv,
    to_latex,
    to_markdown,
    write_csv,
)

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
        "### Gains &amp; losses\n\n|  | Over | Value |\n|---|---|---|\n"
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


FORMULAS = [
    "=1+1",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    " =1",
    '=HYPERLINK("http://x")',
    "\n=1",
]


def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay_numbers():
    rows = [[text, -0.3, None, 1e-30] for text in FORMULAS]
    read = list(csv.reader(io.StringIO(write_csv(rows), newline="")))
    assert [row[0] for row in read] == [f"'{text}" for text in FORMULAS]
    assert {tuple(row[1:]) for row in read} == {("-0.3", "", "1e-30")}
    assert write_csv([["\r=1", "a\rb"]]) == "' =1,a b\n"
    assert write_csv([["a=b", "–", "−5", "a, b", ""]]) == 'a=b,–,−5,"a, b",\n'
    table = Table("t", "", ["=x", "n"], [["=cmd|' /C calc'!A0", Cell(-0.3, aside="=y")]])
    header, row = csv.reader(to_csv(table).splitlines())
    assert header[0] == "'=x"
    assert row == ["'=cmd|' /C calc'!A0", "-0.3", "", "", "'=y"]


def test_no_name_is_markup_in_markdown():
    hostile = "<script>x</script> a|b `c` *d* _e_ [f](g) ~~h~~ &amp; $i$\n\n# j"
    for text in (
        to_markdown(Table("t", hostile, [hostile], [[hostile]], [hostile])),
        markdown(hostile),
    ):
        assert "<" not in text.replace("&lt;", "") and ">" not in text.replace("&gt;", "")
        assert "\n# j" not in text
        assert r"a\|b \`c\` \*d\* \_e\_ \[f\](g) \~\~h\~\~ &amp;amp; \$i\$ # j" in text
    assert [markdown(t) for t in ("# a", "- a", "-0.3")] == [r"\# a", r"\- a", "-0.3"]
    assert markdown("drift_tiny, 0.1*a_b") == r"drift_tiny, 0.1\*a_b"

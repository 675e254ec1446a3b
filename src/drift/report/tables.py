"""The comparison as tables for a paper: Table 1's shape, gains, tests, compute.

Each is written three times: Markdown to read, LaTeX (booktabs) to paste, CSV with every digit.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drift.report.verdict import number


@dataclass(frozen=True)
class Cell:
    """A figure and its 95 % interval; an unknown one says why in `aside`."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    show: Callable[[float | None], str] = number
    aside: str = ""

    def __str__(self) -> str:
        if self.mean is None:
            return self.aside or "–"
        span = ""
        if self.low is not None and self.high is not None:
            span = f" ({self.show(self.low)} to {self.show(self.high)})"
        return self.show(self.mean) + span + (f", {self.aside}" if self.aside else "")


@dataclass(frozen=True)
class Table:
    """Rows under a header; a column of cells becomes three in CSV."""

    name: str  # of its files
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()


def signed_percent(value: float | None) -> str:
    """A relative gain: 0.4346 is +43.5 %."""
    return "–" if value is None else f"{100 * value:+.1f} %".replace("-", "−")


# What Markdown or the HTML in it would obey, of names and prompts that people gave.
MARKDOWN = {c: f"\\{c}" for c in "\\|`*[]~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
OUTER = re.compile(r"(?<!\w)_|_(?!\w)")  # those within a word mark nothing


def markdown(text: str) -> str:
    """The text as Markdown shows it, in one line."""
    shown = "".join(MARKDOWN.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"^(#|[-+] )", r"\\\1", OUTER.sub(r"\\_", shown))


def to_markdown(table: Table) -> str:
    def line(cells: Sequence) -> str:
        return "| " + " | ".join(markdown(str(cell)) for cell in cells) + " |"

    rule = "|" + "---|" * len(table.header)
    notes = [f"* {markdown(note)}" for note in table.notes]
    body = [line(table.header), rule, *map(line, table.rows)]
    return "\n".join([f"### {markdown(table.title)}", "", *body, "", *notes]).rstrip() + "\n"


FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")  # what a spreadsheet would compute begins so


def write_csv(rows: Iterable[Sequence[object]]) -> str:
    """CSV that spreadsheets show as it is: a text that looks like a formula has a quote before it.

    Numbers are numbers, with every digit; nothing (None) is empty.
    """

    def plain(cell: object) -> object:
        if not isinstance(cell, str):
            return cell
        quote = "'" if FORMULA.match(cell) else ""
        return quote + cell.replace("\r", " ")  # which csv takes for the end of a row

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(plain, row) for row in rows])
    return text.getvalue()


def to_csv(table: Table) -> str:
    """Cells as mean, low, high and aside, none of them rounded."""
    cells = [[isinstance(cell, Cell) for cell in row] for row in table.rows]
    wide = [any(column) for column in zip(*cells, strict=True)] or [False] * len(table.header)
    header, rows = [], []
    for name, is_wide in zip(table.header, wide, strict=True):
        header += [name, f"{name} low", f"{name} high", f"{name} note"] if is_wide else [name]
    for row in table.rows:
        written = []
        for cell, is_wide in zip(row, wide, strict=True):
            if isinstance(cell, Cell):
                written += [cell.mean, cell.low, cell.high, cell.aside]
            else:
                written += [cell, "", "", ""] if is_wide else [cell]
        rows.append(written)
    return write_csv([header, *rows])


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
SPECIAL |= {"^": r"\textasciicircum{}", "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}"}


def escape(text: str) -> str:
    return "".join(SPECIAL.get(c, c) for c in text)


def to_latex(table: Table) -> str:
    """A `table` environment for the booktabs package."""

    def line(cells: Sequence) -> str:
        return " & ".join(escape(str(cell)) for cell in cells) + r" \\"

    columns = "l" * sum(isinstance(c, str) for c in table.rows[0]) if table.rows else ""
    columns += "r" * (len(table.header) - len(columns))
    caption = " ".join(escape(part) for part in [f"{table.title}.", *table.notes])
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(table.header), r"\midrule"]
    body += [*map(line, table.rows), r"\bottomrule", r"\end{tabular}"]
    frame = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    return "\n".join([*frame, *body, r"\end{table}"]) + "\n"


WRITERS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}

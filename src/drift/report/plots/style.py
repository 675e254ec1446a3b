"""The look that the figures share, and how they are written."""

import base64
import io
import re
import textwrap
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import style as styles
from matplotlib.figure import Figure
from PIL import Image

from drift.report.wording import capital, wording

PAPER, INK, SOFT, RULE = "#ffffff", "#1e2126", "#62686f", "#e2dfd9"  # as in page.css, in light
BASE = "#62686f"  # the base model's, c0
COLOURS = ("#bd4f14", "#1c67b0", "#2b7a4b", "#7d489f", "#8f7312", "#b02d60")  # c1 ... c6
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven: with six colours, 42 looks
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++")
WIDTH = 7.2  # inches: the text width of a page
LOOK = {
    "font.size": 8.5,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # SVG repeats the list at every text
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "text.parse_math": False,  # a prompt may hold dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "drift",  # or the ids in it would be random
    "pdf.fonttype": 42,
}
# Neither the time nor anything else that changes from one writing to the next.
DPI = {"svg": 200, "pdf": 200, "webp": 150}  # of what is pixels; WebP is for screens
METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "webp": None}


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: told apart without its colour too."""

    colour: str
    marker: str
    hatch: str


def look(k: int) -> Look:
    """Of arm k, from 0."""
    colour, marker, hatch = (kinds[k % len(kinds)] for kinds in (COLOURS, MARKERS, HATCHES))
    return Look(colour, marker, hatch)


def in_our_style() -> AbstractContextManager:
    """Our look over matplotlib's defaults, whatever a matplotlibrc says."""
    return styles.context(["default", LOOK])


def _as_jpeg(found: re.Match) -> str:
    """An image without transparency as JPEG, a quarter of the bytes; any other as it was."""
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    if image.getextrema()[-1] != (255, 255):
        return found[0]
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def saved(figure: Figure, path: Path) -> Path:
    """Write it in the format that the name ends on."""
    kind = path.suffix[1:]
    figure.savefig(path, facecolor=PAPER, dpi=DPI[kind], metadata=METADATA[kind])
    if kind == "svg":  # matplotlib knows only PNG
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", _as_jpeg, text)
        path.write_text(text, encoding="utf-8")
    return path


def plain(text: str, most: int) -> str:
    """On one line and printable (XML has no control characters), cut to `most` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def measure_name(measure: str) -> str:
    """What a figure of metrics.json is called, and on a line of its own by whom it was judged."""
    judge = measure.partition("/")[2]
    words = textwrap.fill(capital(wording(measure).text), 14)
    return f"{words}\n{plain(judge, 24)}" if judge else words


def caption(figure: Figure, text: str) -> None:
    """Small, below all axes, in lines as long as the figure is wide."""
    lines = textwrap.fill(text, int(19 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color=SOFT)

"""Line charts as inline SVG: pure functions from numbers to markup.

Colours come from the page's classes (`c0`, `c1`, ...), so that they follow light and dark. Units in
here are SVG user units; the page scales a chart to the width it has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 72, 12, 44
MOST_POINTS = 300  # of a curve; longer ones are thinned out
LABEL_HEIGHT = 15
LONGEST_NAME = 42  # characters of an axis title
Number = int | float
Point = tuple[Number, Number]  # x, y


@dataclass(frozen=True)
class Line:
    """One curve. `colour` picks the class; `faint` points are drawn pale behind it."""

    label: str
    colour: int
    points: Sequence[Point]
    faint: Sequence[Point] = ()
    dots: bool = False


def nice_ticks(low: Number, high: Number, count: int = 6) -> list[Number]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def rolling_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Each point's mean with its neighbours, `window` in all, fewer at the ends."""
    half, means = window // 2, []
    for k, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, k - half) : k + half + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def _thin(points: Sequence[Point]) -> list[Point]:
    """Finite points only, and evenly fewer of them where they are many; the last one stays."""
    finite = [p for p in points if all(map(math.isfinite, p))]
    stride = max(1, math.ceil(len(finite) / MOST_POINTS))
    return [*finite[:-1:stride], *finite[-1:]]


def _padded(values: list[Number], share: float = 0.06) -> Point:
    low, high = min(values), max(values)
    pad = share * (high - low) or 0.5 * abs(high) or 1.0
    return low - pad, high + pad


def spread(places: list[Number], gap: Number, low: Number, high: Number) -> list[Number]:
    """Move places apart to at least `gap`, keeping their order and staying in [low, high]."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    moved, floor = list(places), low
    for k in order:
        moved[k] = floor = max(floor, places[k])
        floor += gap
    ceiling = high
    for k in reversed(order):
        moved[k] = ceiling = min(ceiling, moved[k])
        ceiling -= gap
    return moved


def _tick_text(value: Number) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def tag(name: str, content: str = "", **attributes: str | Number) -> Markup:
    """An element; everything but Markup is escaped. `css` is the class, `a_b` is a-b."""
    written = Markup("")
    for key, value in attributes.items():
        shown = f"{value:.1f}" if isinstance(value, float) else value
        key = "class" if key == "css" else key.replace("_", "-")
        written += Markup(' {}="{}"').format(key, shown)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, content)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _path(points: Sequence[Point], css: str) -> Markup:
    return tag("polyline", css=css, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _axes(xs: tuple, ys: tuple, place, x_label: str, y_label: str) -> list[Markup]:
    """Grid lines with their numbers, and the two axis titles."""
    right, floor, parts = WIDTH - RIGHT, HEIGHT - BOTTOM, []
    for tick in nice_ticks(*ys):
        y = place((xs[0], tick))[1]
        parts.append(tag("line", css="grid", x1=LEFT, x2=right, y1=y, y2=y))
        text = _tick_text(tick)
        parts.append(tag("text", text, css="tick", x=LEFT - 6, y=y + 4, text_anchor="end"))
    for tick in nice_ticks(*xs):
        x, text = place((tick, ys[0]))[0], _tick_text(tick)
        parts.append(tag("text", text, css="tick", x=x, y=floor + 17, text_anchor="middle"))
    parts.append(tag("line", css="axis", x1=LEFT, x2=right, y1=floor, y2=floor))
    middle = {"css": "name", "text_anchor": "middle"}
    x_label, y_label = (_shorten(label, LONGEST_NAME) for label in (x_label, y_label))
    turned = f"translate(13 {(TOP + floor) / 2}) rotate(-90)"
    parts.append(tag("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 6, **middle))
    parts.append(tag("text", y_label, transform=turned, **middle))
    return parts


def _curve(line: Line, place) -> list[Markup]:
    """The pale points, the line, and its dots: the last one, or all."""
    points, css = [place(p) for p in _thin(line.points)], f"c{line.colour}"
    parts = (
        [_path([place(p) for p in _thin(line.faint)], f"line faint {css}")] if line.faint else []
    )
    parts.append(_path(points, f"line {css}"))
    if line.dots:
        parts += [tag("circle", css=f"dot {css}", cx=x, cy=y, r=3.5) for x, y in points[:-1]]
    x, y = points[-1]
    return [*parts, tag("circle", css=f"dot {css}", cx=x, cy=y, r=5)]


def _end_labels(lines: Sequence[Line], place) -> list[Markup]:
    """Each line's name beside its last point, moved apart where they would overlap."""
    ends = [place(_thin(line.points)[-1]) for line in lines]
    heights = spread([y for _, y in ends], LABEL_HEIGHT, TOP + 6, HEIGHT - BOTTOM)
    parts = []
    for line, (x, _), y in zip(lines, ends, heights, strict=True):
        text = _shorten(line.label, 10)
        parts.append(tag("text", text, css=f"label c{line.colour}", x=x + 9, y=y + 4))
    return parts


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, title: str) -> Markup:
    """An SVG chart with axis labels, and each line's name at its end."""
    drawn = [line for line in lines if _thin(line.points)]
    if not drawn:
        return tag("p", "Nothing was recorded for this curve.", css="none")
    everything = [p for line in drawn for p in [*_thin(line.points), *_thin(line.faint)]]
    xs, ys = (_padded([p[axis] for p in everything]) for axis in (0, 1))
    if not any(line.dots for line in drawn):  # over time: from the first point to the last
        xs = (min(p[0] for p in everything), max(p[0] for p in everything))
    across, down = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP

    def place(p: Point) -> Point:
        share = (p[0] - xs[0]) / ((xs[1] - xs[0]) or 1.0)
        return LEFT + across * share, TOP + down * (ys[1] - p[1]) / (ys[1] - ys[0])

    parts = _axes(xs, ys, place, x_label, y_label)
    for line in drawn:
        parts += _curve(line, place)
    parts += _end_labels(drawn, place)
    view = f"0 0 {WIDTH} {HEIGHT}"
    return tag("svg", Markup("").join(parts), role="img", viewBox=view, aria_label=title)

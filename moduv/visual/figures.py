"""Charts of the report as SVG, coloured by the page's style so that they suit light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from moduv.engine.files import atomic_path

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 38
ROW, NAMES = 62, 128
"""Height of a histogram, and the width of its name."""
PAPER_COLORS = (
    *("#2f6db5", "#d9822b", "#3a9a5b", "#b5403a"),
    *("#7a5bb0", "#8a6d3b", "#c25b9c", "#5f6b76"),
)
"""Of the series in a file of its own; the page's style defines as many, `--s0` to `--s7`."""
PAPER_STYLE = (
    "svg{background:#fff;font:12px sans-serif}polyline{fill:none;stroke-width:2}"
    "polyline.raw{opacity:.3}.gridline{stroke:#e3e6ea}.axis{stroke:#444}"
    ".tick,.label,.value,.name{fill:#333}.end{text-anchor:end}.mark{stroke:#888}"
    ".middle,.label,.value{text-anchor:middle}"
)
PAPER_LEGEND = 26
"""Height of a drawn legend."""


@dataclass(frozen=True)
class Figure:
    """A drawing, for the page and as a file of its own."""

    title: str
    parts: Sequence[Markup] = ()
    """SVG elements; without any, the page shows `empty`."""
    height: int = HEIGHT
    names: Sequence[str] = ()
    """Of the series in the order of their colours, for the legend."""
    readout: str = ""
    """JSON of the points, which the page shows under the pointer."""
    empty: str = ""
    detail: str = ""
    """Behind the title."""
    note: str = ""
    """Below the drawing."""

    def __html__(self) -> str:
        """The figure as the page shows it."""
        if not self.parts:
            return Markup('<p class="empty">{}</p>').format(self.empty)
        drawing = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, self.height, self.title, Markup("").join(self.parts)
        )
        if self.readout:
            drawing = Markup('<div class="plot" data-plot="{}">{}</div>').format(
                self.readout, drawing
            )
        entry = Markup('<span><i style="background:{}"></i>{}</span>')
        entries = [entry.format(color(i), name) for i, name in enumerate(self.names)]
        legend = Markup('<div class="legend">{}</div>').format(Markup("").join(entries))
        return drawing + (legend if self.names else "")

    def save(self, path: str | Path) -> None:
        """Write an SVG file in the colours of a light page, with the legend in the drawing."""
        height, left, parts = self.height, LEFT, list(self.parts)
        baseline = height + PAPER_LEGEND - 10
        for index, name in enumerate(self.names):
            parts.append(
                _tag("rect", x=left, y=baseline - 9, width=10, height=10, fill=color(index))
            )
            parts.append(_tag("text", name, class_="tick", x=left + 15, y=baseline))
            left += 36 + 7 * len(name)
        height += PAPER_LEGEND * bool(self.names)
        content = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}"><style>{PAPER_STYLE}</style>{"".join(parts)}</svg>'
        )
        for index, paper in enumerate(PAPER_COLORS):
            content = content.replace(color(index), paper)
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    x_label: str = "",
    y_label: str = "",
    *,
    log: bool = False,
    smooth: bool = False,
) -> Figure:
    """Lines over a common axis, name -> [(x, y)]; points that are not finite are left out.

    `log` draws y logarithmically, `smooth` a running mean over each line.
    """
    finite = {name: _finite(points, positive=log) for name, points in series.items()}
    known = {name: points for name, points in finite.items() if points}
    if not known:
        return Figure(title, empty="nothing logged")
    xs, ys = np.array([point for points in known.values() for point in points]).T.tolist()
    x_axis = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=log, padded=True)
    parts = _axes(x_axis, y_axis, x_label, y_label)
    # The first series is drawn last, so that no other hides it.
    for index, points in reversed(list(enumerate(known.values()))):
        if smooth and len(points) > 20:
            parts.append(_path(points, x_axis, y_axis, color(index), "raw"))
            points = _smoothed(points)
        parts.append(_path(points, x_axis, y_axis, color(index), "line"))
    shown = {
        name: [[float(f"{x:.6g}"), float(f"{y:.4g}")] for x, y in _thinned(points, 200)]
        for name, points in known.items()
    }
    ends = [x_axis.start, x_axis.stop, x_axis.low, x_axis.high]
    readout = json.dumps({"x": ends, "series": shown})
    detail = "logarithmic" if log else ""
    return Figure(title, parts, names=list(known), readout=readout, detail=detail)


def bar_chart(
    title: str, groups: Mapping[str, Mapping[str, float]], y_label: str = "", note: str = ""
) -> Figure:
    """Groups of bars from zero, each with its value: round -> {"moving": recall, "static": recall}.

    A negative value is undefined and leaves a gap.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    values = [value for group in groups.values() for value in group.values() if value >= 0]
    if not values:
        return Figure(title, empty="nothing measured")
    y_axis = Axis(0.0, max(values) or 1.0, HEIGHT - BOTTOM, TOP + 12)
    parts = _axes(None, y_axis, "", y_label)
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    width = min(34.0, slot * 0.8 / len(names))
    for position, (label, group) in enumerate(groups.items()):
        center = LEFT + slot * (position + 0.5)
        for index, name in enumerate(names):
            value = group.get(name, -1.0)
            if not value >= 0:
                continue
            left, top = center + (index - len(names) / 2) * width, y_axis(value)
            text = f"{value:.2f}".removeprefix("0")
            place = {"x": left + 1, "y": top}
            size = {"width": width - 2, "height": HEIGHT - BOTTOM - top, "rx": 2}
            parts.append(_tag("rect", fill=color(index), **place, **size))
            parts.append(_tag("text", text, class_="value", x=left + width / 2, y=top - 4))
        parts.append(_tag("text", label, class_="tick middle", x=center, y=HEIGHT - BOTTOM + 16))
    return Figure(title, parts, names=names, note=note)


def size_histograms(sizes: Mapping[str, Sequence[float]], marks: Mapping[str, float]) -> Figure:
    """Histograms of object sizes (pixels) over a common logarithmic axis.

    Args:
        sizes: sizes by the name of their set.
        marks: name -> size above which instances carry that name; drawn as lines.
    """
    known = {name: np.array([v for v in values if v > 0]) for name, values in sizes.items()}
    everything = np.concatenate([*known.values(), np.zeros(0)])
    if not everything.size:
        return Figure("Instances by size", empty="no instances")
    low, high = np.log2(everything.min()), np.log2(everything.max())
    low, high = math.floor(2 * low) / 2, math.ceil(2 * high + 1e-6) / 2
    edges = 2 ** np.linspace(low, high, 29)
    axis = Axis(edges[0], edges[-1], NAMES, WIDTH - RIGHT, log=True)
    ticks = [2.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    drawn = []
    for name, size in marks.items():
        if edges[0] < size < edges[-1]:
            x = axis(size)
            drawn.append(_tag("line", class_="mark", x1=x, x2=x, y1=4, y2=ROW * len(known)))
            drawn.append(_tag("text", name, class_="tick", x=x + 4, y=12))
    title, label = "Instances by size", "√area in pixels"
    return _histograms(title, known, edges, axis, ticks, "{:.0f}–{:.0f} px", label, [], drawn)


def score_histograms(scores: Mapping[str, Sequence[float]], order: Sequence[str] = ()) -> Figure:
    """Histograms of scores from 0 to 1.

    Args:
        scores: scores by the name of their set.
        order: names whose position decides the colour, so that a set looks alike in other histograms.
    """
    if not any(len(values) for values in scores.values()):
        return Figure("Instances by score", empty="no scores")
    edges = np.linspace(0, 1, 26)
    axis = Axis(0.0, 1.0, NAMES, WIDTH - RIGHT)
    known = {name: np.asarray(values, float) for name, values in scores.items()}
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    title = "Instances by score"
    return _histograms(title, known, edges, axis, ticks, "{:.2f}–{:.2f}", "score", order)


def _histograms(
    title: str,
    values: Mapping[str, np.ndarray],
    edges: np.ndarray,
    axis: Axis,
    ticks: Sequence[float],
    bin_name: str,
    x_label: str,
    order: Sequence[str],
    marks: Sequence[Markup] = (),
) -> Figure:
    """Histograms one below the other, each scaled to its tallest bar."""
    parts, colors = [], list(dict.fromkeys([*order, *values]))
    for row, (name, entries) in enumerate(values.items(), 1):
        counts, base = np.histogram(entries, edges)[0], ROW * row
        fill = color(colors.index(name))
        for start, stop, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                tall = (ROW - 16) * count / counts.max()
                hint = _tag("title", f"{bin_name.format(start, stop)}: {count:,}")
                place = {"x": axis(start) + 0.5, "y": base - tall}
                size = {"width": axis(stop) - axis(start) - 1, "height": tall}
                parts.append(_tag("rect", hint, fill=fill, **place, **size))
        parts.append(_tag("line", class_="axis", x1=NAMES, x2=WIDTH - RIGHT, y1=base, y2=base))
        parts.append(_tag("text", name, class_="name", x=4, y=base - 22))
        total = f"{int(counts.sum()):,} instances"
        parts.append(_tag("text", total, class_="tick", x=4, y=base - 7))
    bottom, middle = ROW * len(values), (NAMES + WIDTH) / 2
    for tick in ticks:
        place = {"x": axis(tick), "y": bottom + 16}
        parts.append(_tag("text", f"{tick:g}", class_="tick middle", **place))
    parts.append(_tag("text", x_label, class_="label", x=middle, y=bottom + BOTTOM - 4))
    detail = "each scaled to its tallest bar"
    return Figure(title, [*parts, *marks], bottom + BOTTOM, detail=detail)


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 0.8 s, 47 s, 6 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def color(index: int) -> str:
    """The colour of a series, as a variable of the page's style."""
    return f"var(--s{index % len(PAPER_COLORS)})"


class Axis:
    """Values to pixels, from `start` to `stop`, with round ticks.

    Args:
        log: logarithmic.
        padded: with a margin at both ends, and from zero where zero is near.
    """

    def __init__(
        self,
        low: float,
        high: float,
        start: float,
        stop: float,
        *,
        log: bool = False,
        padded: bool = False,
    ) -> None:
        self.log, self.start, self.stop = log, start, stop
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        margin = 0.06 * (high - low) if padded else 0.0
        self.only = [float(low)] if low == high and not log else None
        # A curve that never changes still needs an axis of some length.
        margin = margin if high > low else (abs(low) * 0.1 or 0.5)
        # From zero where zero is near: a loss that halves should look halved.
        from_zero = padded and not log and 0 <= low <= 0.5 * high
        self.low, self.high = 0.0 if from_zero else low - margin, high + margin

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """A few round values on the axis."""
        if self.only is not None:
            return self.only
        if self.log and self.high - self.low >= 1:
            powers = range(math.floor(self.low), math.floor(self.high) + 1)
            steps = (1,) if self.high - self.low > 3 else (1, 2, 5)
            marks = [step * 10.0**power for power in powers for step in steps]
            return [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
        if self.log:
            return [10.0**v for v in np.linspace(self.low, self.high, 4)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _axes(x_axis: Axis | None, y_axis: Axis, x_label: str, y_label: str) -> list[Markup]:
    """Grid lines, ticks and labels of a chart."""
    parts, right, bottom = [], WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y_axis.ticks():
        y = y_axis(tick)
        parts.append(_tag("line", class_="gridline", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(_tag("text", _short(tick), class_="tick end", x=LEFT - 6, y=y + 4))
    if x_axis:
        for tick in x_axis.ticks():
            place = {"x": x_axis(tick), "y": bottom + 16}
            parts.append(_tag("text", _short(tick), class_="tick middle", **place))
    parts.append(_tag("line", class_="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom))
    parts.append(_tag("text", x_label, class_="label", x=(LEFT + WIDTH) / 2, y=HEIGHT - 4))
    turned = f"translate(12 {(bottom + TOP) / 2}) rotate(-90)"
    return [*parts, _tag("text", y_label, class_="label", transform=turned)]


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis, stroke: str, kind: str) -> Markup:
    places = [(x_axis(x), y_axis(y)) for x, y in _thinned(points, 600)]
    if len(places) == 1:
        return _tag("circle", cx=places[0][0], cy=places[0][1], r=3, fill=stroke)
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return _tag("polyline", class_=kind, points=way, stroke=stroke)


def _tag(name: str, content: str = "", /, **attributes: Any) -> Markup:
    """An SVG element; numbers with one decimal."""
    texts = {k: f"{v:.1f}" if isinstance(v, float) else escape(v) for k, v in attributes.items()}
    words = "".join(f' {key.rstrip("_")}="{text}"' for key, text in texts.items())
    return Markup(f"<{name}{words}>{escape(content)}</{name}>")


def _finite(points: Sequence[Point], *, positive: bool) -> list[Point]:
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [(x, y) for x, y in finite if y > 0 or not positive]


def _thinned(points: Sequence[Point], limit: int) -> Sequence[Point]:
    stride = -(-len(points) // limit)
    kept = points[::stride]
    return kept if (len(points) - 1) % stride == 0 else [*kept, points[-1]]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Centred running mean over a twentieth of the curve."""
    xs, ys = np.array(points).T
    reach = max(1, len(ys) // 40)
    padded = np.pad(ys, reach, mode="edge")
    kernel = np.full(2 * reach + 1, 1 / (2 * reach + 1))
    return list(zip(xs.tolist(), np.convolve(padded, kernel, "valid").tolist(), strict=True))


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"

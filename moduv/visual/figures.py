"""Charts of the report as inline SVG, coloured by the page's style so that they suit light and dark."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from moduv.engine.files import atomic_path

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 38
SERIES_COLORS = 8  # how many the style sheet defines
PAPER_COLORS = (
    *("#2f6db5", "#d9822b", "#3a9a5b", "#b5403a"),
    *("#7a5bb0", "#8a6d3b", "#c25b9c", "#5f6b76"),
)
PAPER_STYLE = (
    "svg{background:#fff;font:12px sans-serif}polyline{fill:none;stroke-width:2}"
    "polyline.raw{opacity:.3}.gridline{stroke:#e3e6ea}.axis{stroke:#444}"
    ".tick,.label,.value,.name{fill:#333}.end{text-anchor:end}.mark{stroke:#888}"
    ".middle,.label,.value{text-anchor:middle}"
)
PAPER_LEGEND = 26  # rows of a drawn legend


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis: series name -> [(x, y)]."""

    title: str
    series: Mapping[str, Sequence[Point]]
    x_label: str = ""
    y_label: str = ""
    log_y: bool = False
    smooth: bool = False
    note: str = ""


def line_chart(chart: Chart) -> Markup:
    """A chart as SVG with its points for the page's hover read-out; points not finite are left out."""
    series = {name: _finite(points, chart.log_y) for name, points in chart.series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Markup('<p class="empty">nothing logged</p>')
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_axis = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=chart.log_y, padded=True)
    parts = [axes(x_axis, y_axis, chart.x_label, chart.y_label)]
    # The first series is drawn last, so that no other hides it.
    for index, points in reversed(list(enumerate(series.values()))):
        color = f"var(--s{index % SERIES_COLORS})"
        if chart.smooth and len(points) > 20:
            parts.append(_path(points, x_axis, y_axis, color, "raw"))
            points = _smoothed(points)
        parts.append(_path(points, x_axis, y_axis, color, "line"))
    data = {
        "x": [x_axis.start, x_axis.stop, x_axis.low, x_axis.high],
        "series": {
            name: [[float(f"{x:.6g}"), float(f"{y:.4g}")] for x, y in _thinned(points, 200)]
            for name, points in series.items()
        },
    }
    return Markup('<div class="plot" data-plot="{}">{}</div>{}').format(
        json.dumps(data), svg(parts, chart.title), legend(list(series))
    )


def save_chart(chart: Chart, path: str | Path) -> None:
    """Write a line chart as an SVG file of its own, see `save_figure`."""
    save_figure(line_chart(chart), path)


def save_figure(figure: Markup, path: str | Path) -> None:
    """Write a figure of the page as an SVG file of its own, in the colours of a light page.

    The legend below the figure moves into the drawing; a figure without anything to draw is left blank.
    """
    drawing = re.search(r'<svg viewBox="0 0 \d+ (\d+)"[^>]*>(.*)</svg>', figure, re.DOTALL)
    height, content = (int(drawing.group(1)), drawing.group(2)) if drawing else (HEIGHT, "")
    names = re.findall(r'var\(--s(\d)\)"></i>([^<]*)</span>', figure)
    height += PAPER_LEGEND * bool(names)
    content = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}"><style>{PAPER_STYLE}</style>'
        f"{content}{_drawn_legend(names, height - 10)}</svg>"
    )
    content = re.sub(r"var\(--s(\d)\)", lambda match: PAPER_COLORS[int(match.group(1))], content)
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _drawn_legend(names: Sequence[tuple[str, str]], baseline: int) -> str:
    """Series names, already escaped, behind squares in their colours (by number), in one row."""
    entries, left = [], LEFT
    for color, name in names:
        entries.append(
            f'<rect x="{left}" y="{baseline - 9}" width="10" height="10" fill="var(--s{color})"/>'
            f'<text class="tick" x="{left + 15}" y="{baseline}">{name}</text>'
        )
        left += 36 + 7 * len(name)
    return "".join(entries)


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


class Axis:
    """Values to pixels, from `start` to `stop`, with round ticks.

    log     logarithmic
    padded  with a margin at both ends, and from zero where zero is near
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


def axes(x_axis: Axis | None, y_axis: Axis, x_label: str, y_label: str) -> Markup:
    """Grid lines, ticks and labels of a chart."""
    parts = []
    for tick in y_axis.ticks():
        parts.append(
            Markup(
                '<line class="gridline" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text class="tick end" x="{3}" y="{4:.1f}">{5}</text>'
            ).format(LEFT, WIDTH - RIGHT, y_axis(tick), LEFT - 6, y_axis(tick) + 4, _short(tick))
        )
    for tick in x_axis.ticks() if x_axis else []:
        parts.append(
            Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(
                x_axis(tick) if x_axis else 0, HEIGHT - BOTTOM + 16, _short(tick)
            )
        )
    parts.append(
        Markup('<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
            LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
        )
    )
    parts.append(axis_label(x_label, (LEFT + WIDTH) / 2, HEIGHT - 4))
    if y_label:
        parts.append(
            Markup('<text class="label" transform="translate(12 {}) rotate(-90)">{}</text>').format(
                (HEIGHT - BOTTOM + TOP) / 2, y_label
            )
        )
    return Markup("").join(parts)


def axis_label(text: str, x: float, y: float) -> Markup:
    """Text centred below an axis."""
    return Markup('<text class="label" x="{:.1f}" y="{:.1f}">{}</text>').format(x, y, text)


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis, color: str, kind: str) -> Markup:
    steps = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in _thinned(points, 600))
    if len(points) == 1:
        x, y = points[0]
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>').format(
            x_axis(x), y_axis(y), color
        )
    return Markup('<polyline class="{}" points="{}" stroke="{}"/>').format(kind, steps, color)


def svg(parts: Sequence[Markup], title: str, height: int = HEIGHT) -> Markup:
    """A drawing of its parts, as wide as all charts."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )


def legend(names: Sequence[str]) -> Markup:
    """Series names beside their colours."""
    entries = Markup("").join(
        Markup('<span><i style="background:var(--s{})"></i>{}</span>').format(
            index % SERIES_COLORS, escape(name)
        )
        for index, name in enumerate(names)
    )
    return Markup('<div class="legend">{}</div>').format(entries)


def _finite(points: Sequence[Point], positive: bool) -> list[Point]:
    return [
        (float(x), float(y))
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)
    ]


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

"""Bar charts and histograms of the report, in the form of its line charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from moduv.visual.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SERIES_COLORS,
    TOP,
    WIDTH,
    Axis,
    axes,
    axis_label,
    legend,
    svg,
)


@dataclass(frozen=True)
class BarChart:
    """Groups of bars, e.g. round -> {"moving": recall, "static": recall}; a missing value leaves a gap."""

    title: str
    groups: Mapping[str, Mapping[str, float]]
    y_label: str = ""
    note: str = ""


def bar_chart(chart: BarChart) -> Markup:
    """Grouped bars from zero, each with its value."""
    names = list(dict.fromkeys(name for group in chart.groups.values() for name in group))
    values = [v for group in chart.groups.values() for v in group.values() if v >= 0]
    if not values:
        return Markup('<p class="empty">nothing measured</p>')
    y_axis = Axis(0.0, max(values) or 1.0, HEIGHT - BOTTOM, TOP + 12)
    parts = [axes(None, y_axis, "", chart.y_label)]
    slot = (WIDTH - LEFT - RIGHT) / len(chart.groups)
    bar = min(34.0, slot * 0.8 / len(names))
    for position, (label, group) in enumerate(chart.groups.items()):
        center = LEFT + slot * (position + 0.5)
        for index, name in enumerate(names):
            value = group.get(name, -1.0)
            if not value >= 0:
                continue
            left = center + (index - len(names) / 2) * bar
            top = y_axis(value)
            parts.append(
                Markup(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" '
                    'fill="var(--s{})"/><text class="value" x="{:.1f}" y="{:.1f}">{}</text>'
                ).format(
                    left + 1,
                    top,
                    bar - 2,
                    HEIGHT - BOTTOM - top,
                    index % SERIES_COLORS,
                    left + bar / 2,
                    top - 4,
                    f"{value:.2f}".removeprefix("0"),
                )
            )
        parts.append(
            Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(
                center, HEIGHT - BOTTOM + 16, label
            )
        )
    return svg(parts, chart.title) + legend(names)


@dataclass(frozen=True)
class Bins:
    """The common axis of histograms: where bins end, how they are named, which values are written."""

    edges: np.ndarray
    name: Callable[[float, float], str]
    ticks: Mapping[str, float]
    x_label: str
    marks: Mapping[str, float] = field(default_factory=dict)
    """Name -> where its line is drawn."""


def size_histograms(
    sizes: Mapping[str, Sequence[float]], marks: Mapping[str, float], x_label: str
) -> Markup:
    """Histograms one below the other over a common logarithmic axis of object sizes (pixels).

    marks  name -> size above which instances carry that name; drawn as lines
    """
    logs = {name: np.log2([v for v in values if v > 0]) for name, values in sizes.items()}
    everything = np.concatenate([*logs.values(), np.zeros(0)])
    if not everything.size:
        return Markup('<p class="empty">no instances</p>')
    low, high = math.floor(2 * everything.min()) / 2, math.ceil(2 * everything.max() + 1e-6) / 2
    powers = range(math.ceil(low), math.floor(high) + 1)
    bins = Bins(
        np.linspace(low, high, 29),
        lambda start, stop: f"{2**start:.0f}–{2**stop:.0f} px",
        {f"{2.0**power:g}": power for power in powers},
        x_label,
        {name: math.log2(size) for name, size in marks.items()},
    )
    return _histograms(logs, bins, "sizes")


def score_histograms(
    scores: Mapping[str, Sequence[float]], x_label: str, order: Sequence[str] = ()
) -> Markup:
    """Histograms one below the other over scores from 0 to 1.

    order  names whose position decides the colour, so that a set looks alike in other histograms
    """
    if not any(len(values) for values in scores.values()):
        return Markup('<p class="empty">no scores</p>')
    ticks = {f"{value:g}": value for value in (0, 0.2, 0.4, 0.6, 0.8, 1)}
    bins = Bins(
        np.linspace(0, 1, 26), lambda start, stop: f"{start:.2f}–{stop:.2f}", ticks, x_label
    )
    entries = {name: np.asarray(values, float) for name, values in scores.items()}
    return _histograms(entries, bins, "scores", order)


def _histograms(
    values: Mapping[str, np.ndarray], bins: Bins, title: str, order: Sequence[str] = ()
) -> Markup:
    row, left = 62, 128
    bottom = row * len(values)
    axis = Axis(float(bins.edges[0]), float(bins.edges[-1]), left, WIDTH - RIGHT)
    parts = []
    for index, (name, entries) in enumerate(values.items()):
        count = np.histogram(entries, bins.edges)[0]
        base = row * (index + 1)
        color = list(order).index(name) if name in order else index
        parts += _bins(count, bins, axis, base, row - 16, color)
        parts.append(
            Markup(
                '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="name" x="4" y="{3}">{4}</text>'
                '<text class="tick" x="4" y="{5}">{6}</text>'
            ).format(
                left,
                WIDTH - RIGHT,
                base,
                base - 22,
                name,
                base - 7,
                f"{int(count.sum()):,} instances",
            )
        )
    for name, position in bins.marks.items():
        if bins.edges[0] < position < bins.edges[-1]:
            mark = Markup(
                '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="4" y2="{1}"/>'
                '<text class="tick" x="{2:.1f}" y="12">{3}</text>'
            )
            parts.append(mark.format(axis(position), bottom, axis(position) + 4, name))
    for text, position in bins.ticks.items():
        tick = Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>')
        parts.append(tick.format(axis(position), bottom + 16, text))
    parts.append(axis_label(bins.x_label, (left + WIDTH) / 2, bottom + BOTTOM - 4))
    return svg(parts, title, bottom + BOTTOM)


def _bins(
    count: np.ndarray, bins: Bins, axis: Axis, base: int, height: int, color: int
) -> list[Markup]:
    """The bars of one histogram, the tallest `height` pixels high."""
    bar = Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="var(--s{})">'
        "<title>{}</title></rect>"
    )
    drawn = []
    for start, stop, number in zip(bins.edges[:-1], bins.edges[1:], count, strict=True):
        if number:
            tall = height * number / count.max()
            where = (axis(start) + 0.5, base - tall, axis(stop) - axis(start) - 1, tall)
            title = f"{bins.name(start, stop)}: {number:,}"
            drawn.append(bar.format(*where, color % SERIES_COLORS, title))
    return drawn

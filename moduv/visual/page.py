"""The report page: what a run learned, round by round, in one file that opens anywhere.

`Report` holds numbers and pictures; nothing here runs a model. The page needs no network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jinja2
import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.engine.log import read_log
from moduv.visual.bars import BarChart, bar_chart, score_histograms, size_histograms
from moduv.visual.figures import Chart, Point, format_duration, line_chart

ABSENT = "–"
WIDTHS = (960, 720, 540, 400, 300)  # tried from the left until the page is within its budget
QUALITY = 86
THUMBNAIL = 132  # pixels


@dataclass(frozen=True)
class Column:
    """A metric shown in a table: its key in `Row.values`, its heading, and what it means.

    `bar` draws the value as a share of 1 behind the number; `better` is "high", "low" or "" and
    decides which row is marked as the best.
    """

    key: str
    title: str
    help: str = ""
    digits: int = 3
    bar: bool = True
    better: str = "high"


@dataclass(frozen=True)
class Row:
    """Metrics of a round; `upper_bound` marks the supervised one, which the others are compared with."""

    name: str
    values: Mapping[str, float]
    note: str = ""
    upper_bound: bool = False


@dataclass(frozen=True)
class Table:
    """Rounds that share metrics. `ratio_of` adds a column with that metric's share of the upper bound."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""
    ratio_of: str | None = None


@dataclass(frozen=True)
class Headline:
    """One number at the top of the page, already as text."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Frame:
    """A frame and its layers: name -> (H, W, 3) uint8 RGB, the plain frame first.

    Frames that follow one another and share a `group` are shown under its name.
    """

    name: str
    layers: Mapping[str, np.ndarray]
    note: str = ""
    group: str = ""


@dataclass(frozen=True)
class Clip:
    """A clip and its layers to switch between: name -> list of (H, W, 3) uint8 RGB, one a moment."""

    name: str
    layers: Mapping[str, Sequence[np.ndarray]]
    fps: float = 6.0


@dataclass
class Report:
    """Everything on the page; empty parts are left out.

    curves       "training/scalar" -> [(step, value)]; those of a training share a chart
    sizes        label set -> square roots of instance areas, pixels
    size_marks   name of a size class -> its lower bound in pixels
    scores       label set -> scores of its instances
    timings      stage -> seconds
    config       the resolved configuration as text (YAML)
    """

    title: str
    subtitle: str = ""
    headlines: list[Headline] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    bars: list[BarChart] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    layer_notes: dict[str, str] = field(default_factory=dict)
    clips: list[Clip] = field(default_factory=list)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    charts: list[Chart] = field(default_factory=list)
    sizes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    size_marks: dict[str, float] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    config: str = ""
    notes: list[str] = field(default_factory=list)


def write_report(path: str | Path, report: Report, *, budget_mb: float = 20.0) -> Path:
    """Write the report as one HTML file, atomically; return its path.

    Pictures are inlined as JPEG, shrunk until all of them fit into `budget_mb` megabytes. Raises
    InputError for a picture that is not (H, W, 3) uint8, naming frame and layer, and when the
    pictures do not fit at any size.
    """
    for where, picture in _pictures(report):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise InputError(
                f"{where}: the picture is {picture.shape} {picture.dtype}; give (H, W, 3) uint8 RGB."
            )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": format_duration}
    page = environment.get_template("page.html").render(
        report=report,
        tables=[_table_cells(table) for table in report.tables],
        bars=[(chart, bar_chart(chart)) for chart in report.bars],
        charts=[(c, line_chart(c)) for c in (*curve_charts(report.curves), *report.charts)],
        sizes=size_histograms(report.sizes, report.size_marks, "√area in pixels"),
        scores=score_histograms(report.scores, "score", list(report.sizes)),
        frame_layers=_layer_names(report.frames),
        clip_layers=_layer_names(report.clips),
        strip=_strip,
        encode=_Encoder(report, budget_mb),
        thumbnail=lambda picture: _jpeg(picture, THUMBNAIL),
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _layer_names(shown: Sequence[Frame] | Sequence[Clip]) -> list[str]:
    return list(dict.fromkeys(name for item in shown for name in item.layers))


def _strip(shown: Sequence[Frame] | Sequence[Clip]) -> list[tuple[str, str, np.ndarray]]:
    """Name, group and first picture of what a viewer offers."""
    found = []
    for item in shown:
        if isinstance(item, Frame):
            found.append((item.name, item.group, next(iter(item.layers.values()))))
        else:
            found.append((item.name, "", next(iter(item.layers.values()))[0]))
    return found


def read_curves(
    logs: Mapping[str, str | Path], held_out: Sequence[str] = ()
) -> dict[str, list[Point]]:
    """Curves of trainings from their `log.jsonl`: training -> path gives "training/scalar".

    The loss comes first, then its terms; of the metrics that a training measured on held-out
    frames, `val/…`, those in `held_out`.
    """
    curves: dict[str, list[Point]] = {}
    for training, path in logs.items():
        entries = read_log(path)
        names = dict.fromkeys(name for entry in entries for name in entry)
        terms = [n for n in names if "/" not in n and n not in {"step", "learning_rate", "loss"}]
        for scalar in ("loss", *terms, *held_out):
            points = [(float(e["step"]), float(e[scalar])) for e in entries if scalar in e]
            if points:
                curves[f"{training}/{scalar}"] = points
    return curves


def curve_charts(curves: Mapping[str, Sequence[Point]]) -> list[Chart]:
    """One chart a training, logarithmic where its values span more than a factor of 30."""
    grouped: dict[str, dict[str, Sequence[Point]]] = {}
    for name, points in curves.items():
        training, _, scalar = name.rpartition("/")
        grouped.setdefault(training or name, {})[scalar] = points
    charts = []
    for training, series in grouped.items():
        values = np.array([y for points in series.values() for _, y in points])
        values = values[np.isfinite(values)]
        log = bool(values.size and values.min() > 0 and values.max() > 30 * values.min())
        title = training.replace("/val/", ", held-out ")
        charts.append(Chart(title, series, x_label="step", log_y=log, smooth=True))
    return charts


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, its value as a share of 1 for the bar, whether it is the best."""

    text: str
    share: float | None = None
    best: bool = False


def _table_cells(table: Table) -> dict[str, object]:
    best = {column.key: _best(table, column) for column in table.columns}
    upper_bound = next((row for row in table.rows if row.upper_bound), None)
    lines = []
    for row in table.rows:
        cells = [
            _cell(row.values.get(c.key), c, best[c.key], row.upper_bound) for c in table.columns
        ]
        if table.ratio_of and upper_bound:
            value, whole = (_defined(r.values.get(table.ratio_of)) for r in (row, upper_bound))
            ratio = value / whole if value is not None and whole else None
            cells.append(Cell(ABSENT if ratio is None else f"{100 * ratio:.0f} %"))
        lines.append({"row": row, "cells": cells})
    heads = list(table.columns)
    if table.ratio_of and upper_bound:
        measure = next((c.title for c in table.columns if c.key == table.ratio_of), table.ratio_of)
        heads.append(Column("", f"of {upper_bound.name}", f"share of the upper bound's {measure}"))
    return {"table": table, "heads": heads, "lines": lines}


def _defined(value: float | None) -> float | None:
    """None for what the evaluation could not average (-1, NaN)."""
    return value if value is not None and value >= 0 else None


def _best(table: Table, column: Column) -> float | None:
    found = [_defined(row.values.get(column.key)) for row in table.rows if not row.upper_bound]
    values = [value for value in found if value is not None]
    if not column.better or len(set(values)) < 2:
        return None
    return max(values) if column.better == "high" else min(values)


def _cell(value: float | None, column: Column, best: float | None, upper_bound: bool) -> Cell:
    value = _defined(value)
    if value is None:
        return Cell(ABSENT)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{column.digits}f}"
    share = min(float(value), 1.0) if column.bar else None
    return Cell(text, share, best=not upper_bound and best is not None and value == best)


def _pictures(report: Report) -> Iterator[tuple[str, np.ndarray]]:
    """All pictures, each with the words that find it."""
    for frame in report.frames:
        for layer, picture in frame.layers.items():
            yield f"frame {frame.name!r}, layer {layer!r}", picture
    for clip in report.clips:
        for layer, pictures in clip.layers.items():
            for number, picture in enumerate(pictures):
                yield f"clip {clip.name!r}, layer {layer!r}, picture {number}", picture


class _Encoder:
    """Pictures to data addresses, at the largest width at which all fit into the budget."""

    def __init__(self, report: Report, budget_mb: float) -> None:
        pictures = [picture for _, picture in _pictures(report)]
        for width in WIDTHS:
            self.encoded = {id(picture): _jpeg(picture, width) for picture in pictures}
            size = sum(len(text) for text in self.encoded.values()) / 1e6
            if size <= budget_mb:
                return
        raise InputError(
            f"{len(pictures)} pictures take {size:.1f} MB at {width} pixels, more than the "
            f"{budget_mb:g} MB allowed; show fewer frames or clips."
        )

    def __call__(self, picture: np.ndarray) -> str:
        return self.encoded[id(picture)]


def _jpeg(picture: np.ndarray, width: int) -> str:
    if picture.shape[1] > width:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()

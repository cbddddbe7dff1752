"""The report page: what a run learned, round by round, in one file that opens anywhere.

`Report` holds numbers and pictures; nothing here runs a model. The page needs no network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jinja2
import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.visual.figures import Figure, format_duration

ABSENT = "–"
WIDTHS = (960, 720, 540, 400, 300)  # tried from the left until the page is within its budget
QUALITY = 86
THUMBNAIL = 132  # pixels


@dataclass(frozen=True)
class Column:
    """A metric shown in a table."""

    key: str
    title: str
    help: str = ""
    digits: int = 3
    bar: bool = True
    """Whether the value is drawn as a share of 1 behind the number."""
    better: str = "high"
    """high, low or "": which row is marked as the best."""


@dataclass(frozen=True)
class Table:
    """Rounds that share metrics."""

    title: str
    columns: Sequence[Column]
    rows: Mapping[str, Mapping[str, float]]
    """Metrics of each round by their keys; negative ones are undefined."""
    note: str = ""
    upper_bound: str = ""
    """The row that the others are compared with."""
    ratio_of: str = ""
    """The metric of which a further column shows the share of the upper bound's."""


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

    @property
    def cover(self) -> np.ndarray:
        """The picture that stands for it."""
        return next(iter(self.layers.values()))


@dataclass(frozen=True)
class Clip:
    """A clip and its layers to switch between: name -> list of (H, W, 3) uint8 RGB, one a moment."""

    name: str
    layers: Mapping[str, Sequence[np.ndarray]]
    group: str = ""

    @property
    def cover(self) -> np.ndarray:
        """The picture that stands for it."""
        return next(iter(self.layers.values()))[0]


@dataclass
class Report:
    """Everything on the page; empty parts are left out."""

    title: str
    subtitle: str = ""
    headlines: Sequence[Headline] = ()
    tables: Sequence[Table] = ()
    bars: Sequence[Figure] = ()
    """Beside the tables."""
    frames: Sequence[Frame] = ()
    layer_notes: Mapping[str, str] = field(default_factory=dict)
    clips: Sequence[Clip] = ()
    charts: Sequence[Figure] = ()
    """Of the trainings."""
    histograms: Sequence[Figure] = ()
    """Of sizes and scores."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    """The resolved configuration as text (YAML)."""


def write_report(path: str | Path, report: Report, *, budget_mb: float = 20.0) -> Path:
    """Write the report as one HTML file, atomically; return its path.

    Pictures are inlined as JPEG, shrunk until all of them fit into `budget_mb` megabytes. Raises
    InputError when they do not fit at any size.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": format_duration}
    pictures = [picture for frame in report.frames for picture in frame.layers.values()]
    pictures += [p for clip in report.clips for reel in clip.layers.values() for p in reel]
    encoded = _encode(pictures, budget_mb)
    page = environment.get_template("page.html").render(
        report=report,
        tables=[_table_cells(table) for table in report.tables],
        frame_layers=_layer_names(report.frames),
        clip_layers=_layer_names(report.clips),
        encode=lambda picture: encoded[id(picture)],
        thumbnail=lambda picture: _jpeg(picture, THUMBNAIL),
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _layer_names(shown: Iterable[Frame | Clip]) -> list[str]:
    return list(dict.fromkeys(name for item in shown for name in item.layers))


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, its value as a share of 1 for the bar, whether it is the best."""

    text: str
    share: float | None = None
    best: bool = False


def _table_cells(table: Table) -> dict[str, object]:
    """A table's heads and lines as the template shows them."""
    bound = _defined(table.rows.get(table.upper_bound, {}).get(table.ratio_of))
    best = {column.key: _best(table, column) for column in table.columns}
    lines = []
    for name, values in table.rows.items():
        is_bound = name == table.upper_bound
        cells = [
            _cell(values.get(c.key), c, None if is_bound else best[c.key]) for c in table.columns
        ]
        if table.upper_bound in table.rows:
            value = _defined(values.get(table.ratio_of))
            ratio = value / bound if value is not None and bound else None
            cells.append(Cell(ABSENT if ratio is None else f"{100 * ratio:.0f} %"))
        lines.append({"name": name, "cells": cells, "is_bound": is_bound})
    heads = list(table.columns)
    if table.upper_bound in table.rows:
        measure = next(c.title for c in table.columns if c.key == table.ratio_of)
        heads.append(Column("", f"of {table.upper_bound}", f"share of the upper bound's {measure}"))
    return {"table": table, "heads": heads, "lines": lines}


def _defined(value: float | None) -> float | None:
    """None for what the evaluation could not average (-1, NaN)."""
    return value if value is not None and value >= 0 else None


def _best(table: Table, column: Column) -> float | None:
    rows = [values for name, values in table.rows.items() if name != table.upper_bound]
    found = {values[column.key] for values in rows if values.get(column.key, -1) >= 0}
    if not column.better or len(found) < 2:
        return None
    return max(found) if column.better == "high" else min(found)


def _cell(value: float | None, column: Column, best: float | None) -> Cell:
    value = _defined(value)
    if value is None:
        return Cell(ABSENT)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{column.digits}f}"
    return Cell(text, min(float(value), 1.0) if column.bar else None, best=value == best)


def _encode(pictures: Sequence[np.ndarray], budget_mb: float) -> dict[int, str]:
    """Data addresses of pictures by their `id`, at the largest width at which all fit the budget."""
    for width in WIDTHS:
        encoded = {id(picture): _jpeg(picture, width) for picture in pictures}
        size = sum(map(len, encoded.values())) / 1e6
        if size <= budget_mb:
            return encoded
    raise InputError(
        f"{len(pictures)} pictures take {size:.1f} MB at {width} pixels, more than the "
        f"{budget_mb:g} MB allowed; show fewer frames or clips."
    )


def _jpeg(picture: np.ndarray, width: int) -> str:
    if picture.shape[1] > width:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()

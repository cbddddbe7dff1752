"""Metrics as aligned text: the tables a user reads in the console and pastes into a README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moduv.engine.files import write_json
from moduv.engine.log import say

ABSENT = "–"


def format_value(value: float | None) -> str:
    """A metric as text: counts whole, shares with three digits, a dash where undefined (None, -1)."""
    # NaN compares false with everything, so ask for what is wanted.
    if value is None or not value >= 0:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def show_metrics(metrics: Mapping[str, float], out: Path | None = None) -> None:
    """Print every metric, counts whole, and write all as JSON where a file is named."""
    width = max([28, *map(len, metrics)])
    for name, value in metrics.items():
        say(
            f"{name:<{width}} {value:,}"
            if isinstance(value, int)
            else f"{name:<{width}} {value:.4f}"
        )
    if out is not None:
        write_json(out, metrics, indent=1)


def format_table(
    rows: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, str],
    *,
    markdown: bool = False,
) -> str:
    """Rows of metrics as an aligned table, without a final newline.

    Args:
        rows: row name -> metrics, e.g. of `evaluate`.
        columns: metric name -> heading; a metric that a row lacks shows as a dash.
        markdown: with pipes and an alignment row, which Markdown renders as a table.
    """
    cells = [["", *columns.values()]]
    cells += [
        [name, *(format_value(row.get(key)) for key in columns)] for name, row in rows.items()
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = widths
    lines = [
        [name.ljust(first), *(c.rjust(width) for c, width in zip(values, others, strict=True))]
        for name, *values in cells
    ]
    if markdown:
        lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    head, *body = ["  ".join(line).rstrip() for line in lines]
    return "\n".join([head, "─" * (sum(widths) + 2 * len(others)), *body])

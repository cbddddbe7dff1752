"""Metrics as aligned text: the tables a user reads in the console and pastes into a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ABSENT = "–"


def format_value(value: float | str | None, digits: int = 3) -> str:
    """A metric as text: counts whole, shares with `digits`, a dash where undefined (None, -1)."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return ABSENT if value < 0 else f"{value:,}"
    # NaN compares false with everything, so ask for what is wanted.
    return f"{value:.{digits}f}" if value >= 0 else ABSENT


def format_table(
    rows: Mapping[str, Mapping[str, float]],
    columns: Sequence[str] | Mapping[str, str],
    *,
    markdown: bool = False,
    digits: int = 3,
) -> str:
    """Rows of metrics as an aligned table.

    rows      row name -> metrics, e.g. of `evaluate`
    columns   metric names, or metric name -> heading; a metric that a row lacks shows as a dash
    markdown  with pipes and an alignment row, which Markdown renders as a table

    Returns the table without a final newline.
    """
    headings = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    cells = [["", *headings]] + [
        [name, *(format_value(metrics.get(key), digits) for key in columns)]
        for name, metrics in rows.items()
    ]
    widths = [max(len(line[index]) for line in cells) for index in range(len(cells[0]))]
    lines = [
        [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    if not markdown:
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        head, *body = ["  ".join(line).rstrip() for line in lines]
        return "\n".join([head, rule, *body])
    widths = [max(width, 3) for width in widths]
    alignment = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in [lines[0], alignment, *lines[1:]]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)

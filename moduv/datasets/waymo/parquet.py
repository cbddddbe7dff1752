"""Waymo's parquet files: small components as rows, components of images one row at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import reason_of

TIME = "key.frame_timestamp_micros"
READ_AHEAD = 1 << 20
"""Bytes of a column that are read from the file at once."""
Row = dict[str, Any]
Sensor = tuple[str, int]
"""The column that numbers the sensors, and the number of the one whose rows are read."""


def read_rows(
    source: Path, component: str, segment: str, sensor: Sensor | None = None
) -> dict[int, list[Row]]:
    """Read the rows of a component, of one sensor or all, by time; components without times have time 0.

    Columns lose the name of their component: `[VehiclePoseComponent].world_from_vehicle.transform` is
    `world_from_vehicle.transform`.

    Raises InputError when the file is missing or damaged.
    """
    path = _component(source, component, segment)
    with _reading(path):
        from pyarrow.parquet import read_table

        filters = None if sensor is None else [(sensor[0], "==", sensor[1])]
        rows = read_table(path, filters=filters).to_pylist()
    found = defaultdict(list)
    for row in rows:
        short = {name.partition("].")[2] or name: value for name, value in row.items()}
        found[int(row.get(TIME, 0))].append(short)
    return found


class LargeRows:
    """The rows of one sensor in a component of images; only the last row read is held.

    Reading in the file's order is fast; going back reads a part of the file again.
    """

    def __init__(
        self, source: Path, component: str, segment: str, columns: list[str], sensor: Sensor
    ) -> None:
        """Index the file by time. Raises KeyError naming a missing column, and ValueError for a time that is there
        twice."""
        self._path, self._columns = _component(source, component, segment), columns
        with _reading(self._path):
            from pyarrow.parquet import ParquetFile

            self._file = ParquetFile(self._path, buffer_size=READ_AHEAD, pre_buffer=False)
            for column in (TIME, sensor[0], *columns):
                if column not in self._file.schema_arrow.names:
                    raise KeyError(column)
            keys = self._file.read(columns=[TIME, sensor[0]]).to_pydict()
        pairs = enumerate(zip(keys[TIME], keys[sensor[0]], strict=True))
        rows = [(time, row) for row, (time, name) in pairs if name == sensor[1]]
        self.times = dict(rows)
        """Row by time."""
        if len(self.times) < len(rows):
            raise ValueError(f"{component} has a time twice")
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._batches: Iterator[Any] = iter(())
        self._next = len(keys[TIME])  # beyond every row, so the first read opens the file

    def at(self, time: int) -> list[Any]:
        """Read the row at a time, an Arrow array of one value per column; empty without such a row."""
        row = self.times.get(time)
        if row is None:
            return []
        with _reading(self._path):
            group = int(np.searchsorted(self._starts, row, "right")) - 1
            if not self._starts[group] <= self._next <= row:
                groups = range(group, len(self._starts) - 1)
                self._batches = self._file.iter_batches(
                    batch_size=1, row_groups=groups, columns=self._columns, use_threads=False
                )
                self._next = int(self._starts[group])
            batch = next(islice(self._batches, row - self._next, None))
        self._next = row + 1
        return [batch.column(name) for name in self._columns]


def _component(source: Path, component: str, segment: str) -> Path:
    path = source / component / f"{segment}.parquet"
    if not path.is_file():
        raise InputError(
            f"{path}: missing; download the component {component!r} of this segment from "
            "waymo.com/open (perception v2, after accepting its licence)."
        )
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a missing pyarrow and a damaged file into InputErrors."""
    try:
        from pyarrow import ArrowException
    except ImportError:
        raise InputError(
            "Waymo's parquet files need pyarrow; install it with pip install 'moduv[waymo]'."
        ) from None
    try:
        yield
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not readable ({reason_of(error)}); download it again.") from None

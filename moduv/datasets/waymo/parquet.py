"""Waymo's parquet files: small components as rows, components of images one row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError

TIME = "key.frame_timestamp_micros"
READ_AHEAD = 1 << 20
"""Bytes of a column that are read from the file at once."""
Row = dict[str, Any]


def read_rows(
    source: Path,
    component: str,
    segment: str,
    key: str = "",
    name: int = 0,
    *,
    may_lack: bool = False,
) -> list[Row]:
    """Read the rows of a component, only those of sensor `name` where its column `key` is given.

    Raises InputError when the file is missing or damaged, or has no such row unless it `may_lack` them.
    """
    path = _component(source, component, segment)
    with _reading(path):
        from pyarrow.parquet import read_table

        filters = [(key, "==", name)] if key else None
        rows = read_table(path, filters=filters).to_pylist()
    if not rows and not may_lack:
        raise _no_row(path, name)
    return rows


class LargeRows:
    """The rows of one sensor in a component of images; only the last row read is held.

    Reading in the file's order is fast; going back reads a part of the file again.
    """

    def __init__(
        self,
        source: Path,
        component: str,
        segment: str,
        columns: Sequence[str],
        key: str,
        name: int,
    ) -> None:
        """Index the file by time. Raises KeyError naming a missing column."""
        self._path = _component(source, component, segment)
        with _reading(self._path):
            from pyarrow.parquet import ParquetFile

            self._file = ParquetFile(self._path, buffer_size=READ_AHEAD, pre_buffer=False)
            for column in (TIME, key, *columns):
                if column not in self._file.schema_arrow.names:
                    raise KeyError(column)
            keys = self._file.read(columns=[TIME, key]).to_pydict()
        pairs = enumerate(zip(keys[TIME], keys[key], strict=True))
        self._row_of = {time: row for row, (time, sensor) in pairs if sensor == name}
        if not self._row_of:
            raise _no_row(self._path, name)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._columns = list(columns)
        self._batches: Iterator[Any] = iter(())
        self._next = len(keys[TIME])  # beyond every row, so the first read opens the file

    @property
    def times(self) -> list[int]:
        """Times of the sensor's rows, sorted."""
        return sorted(self._row_of)

    def at(self, time: int) -> Row | None:
        """Read the row at a time, an Arrow array of one value per column; None without such a row."""
        row = self._row_of.get(time)
        if row is None:
            return None
        with _reading(self._path):
            self._seek(row)
            batch = next(self._batches)
        self._next = row + 1
        return {name: batch.column(name) for name in self._columns}

    def _seek(self, row: int) -> None:
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        if not self._starts[group] <= self._next <= row:
            groups = range(group, len(self._starts) - 1)
            self._batches = self._file.iter_batches(
                batch_size=1, row_groups=groups, columns=self._columns, use_threads=False
            )
            self._next = int(self._starts[group])
        while self._next < row:
            next(self._batches)
            self._next += 1


def array_of(row: Row, column: str) -> np.ndarray:
    """Convert the lists of values and of the shape in a row to a float32 array."""
    values, shape = (row[f"{column}.{part}"].flatten() for part in ("values", "shape"))
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(shape.to_pylist())


def _component(source: Path, component: str, segment: str) -> Path:
    path = source / component / f"{segment}.parquet"
    if not path.is_file():
        raise InputError(
            f"{path}: missing; download the component {component!r} of this segment from "
            "waymo.com/open (perception v2, after accepting its licence)."
        )
    return path


def _no_row(path: Path, name: int) -> InputError:
    return InputError(f"{path}: has no row of sensor {name}; download it again.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a missing pyarrow and a damaged file into InputErrors."""
    try:
        from pyarrow import ArrowInvalid
    except ImportError:
        raise InputError(
            "Waymo's parquet files need pyarrow; install it with pip install 'moduv[waymo]'."
        ) from None
    try:
        yield
    except (ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not readable ({reason}); download it again.") from None

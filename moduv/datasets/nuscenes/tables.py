"""Tables of nuScenes and nuImages: lists of rows, linked by tokens, checked value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.frames.splits import is_inside
from moduv.instances.masks import is_number

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a value of a table must be."""

    words: str
    holds: Callable[[Any], bool]


def numbers(count: int) -> Kind:
    """A list of so many finite numbers."""
    return Kind(
        f"list of {count} finite numbers",
        lambda value: (
            isinstance(value, list) and len(value) == count and all(map(is_number, value))
        ),
    )


TEXT = Kind("text", lambda value: isinstance(value, str))
TOKEN = Kind("token", lambda value: isinstance(value, str) and value != "")
PLACE = Kind("path below the data set", lambda value: isinstance(value, str) and is_inside(value))
NUMBER = Kind("finite number", is_number)
WHOLE = Kind("whole number", lambda value: type(value) is int and 0 <= value < 1 << 31)
FLAG = Kind("true or false", lambda value: value in (True, False))
ANY = Kind("value", lambda value: True)
Schema = Mapping[str, Kind]


def read_table(path: Path, schema: Schema, download: str) -> list[Row]:
    """Read the rows of a table; `download` is how errors end.

    Raises InputError naming the first row that lacks a key of the schema or has a value of another kind, and a
    token that two rows have.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: is no list of rows; {download}")
    for key, kind in schema.items():
        for number, row in enumerate(rows):
            if key not in row:
                raise InputError(f"{path}: row {number} lacks {key!r}; {download}")
            if not kind.holds(row[key]):
                raise InputError(
                    f"{path}: row {number}: {key!r} is {row[key]!r:.60}, no {kind.words}; {download}"
                )
    _check_tokens(path, rows, download)
    return rows


def _check_tokens(path: Path, rows: list[Row], download: str) -> None:
    seen = set[str]()
    for number, row in enumerate(rows):
        token = row.get("token")
        if isinstance(token, str) and token in seen:
            raise InputError(
                f"{path}: row {number}: the token {token!r:.60} occurs twice; {download}"
            )
        seen.add(str(token))

"""Files that are either whole or absent."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import os
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.lock import lock

LARGEST_TEXT, LARGEST_ARRAY = 2 << 30, 1 << 29
"""Bytes beyond which a file is not read."""
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What files of known codings begin with; the longer ones come first."""
MEND = "mend the file, or move it away and run the stage that made it again"
"""What to do about a broken file, whether a user wrote it or a stage did."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that is full or broken."""
TEMPORARY = ".moduv-partial-"
"""Beginning of the names of files that are being written."""

_swept: set[Path] = set()
"""Folders in which this process has removed what killed ones left."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    A crash, a kill or an exception leaves `path` as it was. The temporary name keeps the suffix,
    so that writers which choose a format by suffix work. What a kill leaves is removed by the next process
    that writes to the folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    handle, temporary = _temporary_beside(path)
    try:
        lock(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; outputs follow the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except InputError:
        raise
    except Exception as error:
        broken = broken_disk(error, path)
        if broken is None:
            raise
        raise broken from error
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # it has its name, or the next process sweeps it
            temporary.unlink()


def _sweep(folder: Path) -> None:
    """Remove, once a process, the temporary files whose writers are dead: living ones hold a lock."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError), path.open("r+b") as left:
            if lock(left.fileno()):
                path.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> tuple[int, Path]:
    """An empty open file beside `path`. Errors name `path`, not a name that the user has never seen."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return handle, Path(name)


def broken_disk(error: BaseException | None, path: Path) -> OSError | None:
    """The error of the disk behind an error, with the name of the file that was written, if there is one.

    Writing names no file, and libraries raise other errors after or instead of that of the disk.
    """
    while error is not None:
        for code in DISK:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return OSError(code, os.strerror(code), str(path))
        error = error.__context__
    return None


def write_json(path: str | Path, content: Any, *, indent: int | None = None) -> None:
    """Write `content` as JSON, atomically. Raises ValueError for NaN and infinity."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, allow_nan=False))


@contextlib.contextmanager
def json_list(path: str | Path) -> Iterator[Callable[[list[Any]], None]]:
    """Yield what adds entries to a JSON list, which is written as they come, atomically."""
    with atomic_path(path) as temporary, temporary.open("w") as stream:
        stream.write("[")
        separators = chain([""], repeat(", "))

        def add(entries: list[Any]) -> None:
            for entry in entries:
                stream.write(next(separators) + json.dumps(entry, allow_nan=False))

        yield add
        stream.write("]")


def read_bytes(path: Path, remedy: str, largest: int = LARGEST_ARRAY) -> bytes:
    """The content of a file. Raises InputError ending in `remedy` when it has more than `largest` bytes."""
    with path.open("rb") as stream:
        small = os.fstat(stream.fileno()).st_size <= largest
        content = stream.read(largest + 1) if small else b""
    if not small or len(content) > largest:
        raise InputError(f"{path}: is larger than the {largest >> 20} MiB that are read; {remedy}.")
    return content


def read_text(path: str | Path, *, largest: int = LARGEST_TEXT) -> str:
    """Read a text file, in UTF-8 or with the mark that editors put before UTF-8, UTF-16 and UTF-32.

    Args:
        path: what a user or another program wrote.
        largest: bytes beyond which it is not read.

    Raises:
        InputError: when it is missing, no readable file, larger, or other than text.
    """
    path = Path(path)
    with _decoding(path, "text"), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        raw = stream.read((size or largest) + 1) if size <= largest else b""
    if max(size, len(raw)) > largest:
        raise InputError(f"{path}: has more than {largest >> 20} MiB; give the right file.")
    coding = next((coding for mark, coding in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(coding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: not readable, it is not UTF-8 text; save the file as UTF-8.")
    return text


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises InputError when it is missing, broken or no readable file."""
    return parse_json(read_text(path), path)


def parse_json(text: str, source: str | Path) -> Any:
    """The content of JSON. Raises InputError naming its source when it is broken, or says a key twice."""
    with _decoding(source, "JSON"):
        return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError when a key occurs twice, of which readers take either."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r:.80} occurs twice in one object")
    return content


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write arrays to a compressed npz file, atomically."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_npz(
    path: str | Path, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Read `keys`, and those in `optional` that it holds, from an npz file: real numbers, never a pickle.

    Raises InputError when the file is missing, broken, lacks one of the keys, or holds something else.
    """
    path = Path(path)
    with _decoding(path, "npz"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        held = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
        wanted = [*keys, *(key for key in optional if key in held)]
        for key in wanted:
            if key not in held:
                raise InputError(
                    f"{path}: lacks the array {key!r} (it holds {', '.join(held)!s:.80}); write it again "
                    "with the stage that makes it."
                )
            if archive.getinfo(f"{key}.npy").file_size > LARGEST_ARRAY:
                raise InputError(
                    f"{path}: {key!r} has more than {LARGEST_ARRAY >> 20} MiB; {MEND}."
                )
        return {key: _read_array(archive.open(f"{key}.npy"), key, path) for key in wanted}


def read_npy(path: str | Path) -> np.ndarray:
    """Read an npy file of real numbers. Raises InputError when it is missing or something else."""
    path = Path(path)
    with _decoding(path, "npy"):
        return _read_array(path.open("rb"), "its array", path)


def _read_array(opened: IO[bytes], name: str, path: Path) -> np.ndarray:
    with opened as stream:
        # Memory follows the bytes that are there, not the shape that the header claims.
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name!r} holds {array.dtype!s:.40}, no real numbers; {MEND}.")
    return array


@contextlib.contextmanager
def _decoding(path: str | Path, form: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; check the path or run the stage that makes it."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: not readable ({error.strerror or error}); give a file that can be read."
        ) from None
    # What others wrote can break a decoder in any way: numbers of 5,000 digits, nesting, absurd shapes.
    except Exception as error:
        raise InputError(f"{path}: not readable as {form} ({reason_of(error)}); {MEND}.") from None


def reason_of(error: Exception) -> str:
    """What an error says, in one short line."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if mark := getattr(error, "problem_mark", None):  # YAML's own words take several lines
        return f"line {mark.line + 1}: {getattr(error, 'problem', None)!s:.120}"
    return textwrap.shorten(str(error), 120, placeholder=" …") or type(error).__name__


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return digest(path, "sha256")


def digest(path: str | Path, kind: str) -> str:
    """Hexadecimal hash of a file's content, of a kind that `hashlib` knows."""
    state = hashlib.new(kind, usedforsecurity=False)
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()

"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    A crash, a kill or an exception leaves `path` as it was. The temporary name keeps the suffix,
    so that writers which choose a format by suffix work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    try:
        try:
            yield temporary
        except Exception as error:
            full = _full_disk(error, path)
            if full is None:
                raise
            raise full from error
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; outputs follow the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> Path:
    """An empty file beside `path`. Errors name `path`, not a name that the user has never seen."""
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    return Path(name)


def _full_disk(error: BaseException | None, path: Path) -> OSError | None:
    """The full disk behind an error, with the name of the file that was written, if there is one.

    Writing names no file, and torch raises another error after that of the disk.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return OSError(error.errno, error.strerror, str(path))
        error = error.__context__
    return None


def write_json(path: str | Path, content: Any, *, indent: int | None = None) -> None:
    """Write `content` as JSON, atomically. Raises ValueError for NaN and infinity."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, allow_nan=False))


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises InputError when it is missing, broken or no readable file."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; check the path or run the stage that makes it."
        ) from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); give a JSON file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not readable as JSON ({error}); delete it and run the stage that makes it again."
        ) from None


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write arrays to a compressed npz file, atomically."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_npz(path: str | Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read `keys` from an npz file, never a pickle.

    Raises InputError when the file is missing, broken, or lacks one of the keys.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise InputError(
                    f"{path}: lacks the array {missing[0]!r} (it holds {', '.join(archive.files)}); "
                    "write it again with the stage that makes it."
                )
            return {key: archive[key] for key in keys}
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; check the path or run the stage that makes it."
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not readable as npz ({error}); delete it and run the stage that makes it again."
        ) from None


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

"""Locks that the kernel takes from a process when it dies, so that none is ever left."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from moduv.engine.errors import InputError

LOCK = ".moduv-lock"
"""File in a folder that a process is writing to; it names the process."""


def lock(handle: int, *, by_process: bool = False) -> bool | None:
    """Lock an open file until it is closed or its process dies.

    Args:
        handle: of the file.
        by_process: hold it for the process, whose children then have no part in it, until the process
            closes the file under any handle; instead of for the handle.

    Returns:
        Whether it is locked now; None where the system or the disk has no locks.
    """
    try:
        import fcntl

        (fcntl.lockf if by_process else fcntl.flock)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return None
    return True


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder of outputs meanwhile; the kernel ends this with the process.

    Raises InputError that names the process at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _claim(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _claim(path: Path) -> int:
    """Lock the file of a folder and write this process's name into it."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path.parent)) from None
        if lock(handle, by_process=True) is False:
            owner = os.read(handle, 1000).decode() or "another process"
            os.close(handle)
            raise InputError(
                f"{path.parent}: {owner} is at work here; wait until it has ended, or choose another name."
            )
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)  # whoever had it has removed it in between
    with contextlib.suppress(OSError):  # of a full disk: the name is a courtesy
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
    return handle

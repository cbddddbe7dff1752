"""Errors that the user can fix."""

from __future__ import annotations

import errno
from pathlib import Path

REMEDIES = {
    errno.EACCES: "may not be read or written; change its permissions or choose another place",
    errno.EPERM: "may not be read or written; change its permissions or choose another place",
    errno.EROFS: "is on a disk that cannot be written; choose another place",
    errno.EISDIR: "is a folder, and a file is needed there; name a file",
    errno.EEXIST: "is a file, and a folder is needed there; choose another place",
    errno.ENOTDIR: "is a file, and a folder is needed there; choose another place",
    errno.ENOSPC: "cannot be written, the disk is full; make room and run the command again",
    errno.EDQUOT: "cannot be written, your share of the disk is full; make room and run the command again",
    errno.EFBIG: "cannot be written, files may not be as large here; see 'ulimit -f' or choose another disk",
    errno.EIO: "cannot be read or written, the disk reports an error; check it and run the command again",
    errno.ENAMETOOLONG: "is a name too long for this disk; choose a shorter one",
}
"""Errors of the file system that the user can fix, and how."""


class InputError(Exception):
    """Bad input: one sentence that names the file, the key and the remedy.

    Entry points print the sentence and leave with exit code 2, without a traceback.
    """


def refusal(error: OSError) -> str | None:
    """One sentence with the path and the remedy; None for errors that the user cannot fix."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    # Of a renaming the second path is the one that the user knows.
    name = error.filename2 or error.filename
    if name is None:
        return f"a file {remedy}."
    path = Path(str(name))
    if error.errno == errno.ENOTDIR:
        path = next((part for part in (path, *path.parents) if part.is_file()), path)
    return f"{path}: {remedy}."


def is_lost(error: BaseException) -> bool:
    """Check whether an error only says that another process of the run is gone."""
    kind = type(error).__name__  # of torch.distributed, which not every command loads
    return isinstance(error, RuntimeError) and ("onnection" in str(error) or kind[:4] == "Dist")

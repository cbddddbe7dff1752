"""Progress bars, lines for the user, and the logs of trainings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from moduv.engine.launch import processes, told_number

Item = TypeVar("Item")


_prefix = ""


@contextmanager
def prefixed_bars(prefix: str) -> Iterator[None]:
    """Begin the progress bars inside with a part of the run, such as `[2/13]`."""
    global _prefix
    before, _prefix = _prefix, f"{prefix} "
    try:
        yield
    finally:
        _prefix = before


def progress_bar(iterable: Iterable[Item], **options: Any) -> Any:
    """A tqdm bar that appears once the work has lasted two seconds; tqdm's options."""
    options = {"delay": 2, "dynamic_ncols": sys.stderr.isatty(), **options}
    return tqdm(iterable, **{**options, "desc": _prefix + options.get("desc", "")})


def is_reporting() -> bool:
    """Check whether this process reports progress: under torchrun, only the first does."""
    return processes() == 1 or told_number("RANK") == 0


def progress(
    iterable: Iterable[Item], *, desc: str, total: int | None = None, unit: str = "it"
) -> Iterator[Item]:
    """Iterate with a progress bar that appears once the work has lasted two seconds."""
    interval = 0.5 if sys.stderr.isatty() else 15
    yield from progress_bar(
        iterable,
        desc=desc,
        total=total,
        unit=unit,
        mininterval=interval,
        smoothing=0.1,
        disable=not is_reporting(),
    )


def say(message: str) -> None:
    """Print a line for the user without tearing a progress bar, once whatever the number of processes."""
    if not is_reporting() or sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # Names of files may hold what the terminal cannot show.
    shown = message.encode(encoding, "backslashreplace").decode(encoding)
    try:
        tqdm.write(shown, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has left, as `head` does; the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a run's log up to a line that is none, as a kill may leave it."""
    path = Path(path)
    entries: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            break
        entries.append(entry)
    return entries

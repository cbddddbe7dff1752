"""Progress bars, JSON lines and wandb."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from moduv.engine.files import atomic_path

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
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


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
    if not is_reporting():
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # Names of files may hold what the terminal cannot show.
    tqdm.write(message.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


class JsonLines:
    """Append-only log of a training run, one JSON object a line.

    On resume, lines beyond the step that the run restarts from are dropped, so that the log of a
    killed run reads like that of an uninterrupted one.
    """

    def __init__(self, path: str | Path, *, resume_step: int = 0) -> None:
        self.path = Path(path)
        kept = [entry for entry in read_log(self.path) if entry["step"] <= resume_step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a run's log; a last line cut by a kill is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class WandbRun:
    """A wandb run when `MODUV_WANDB` names a project, otherwise silent.

    Without an API key the run is recorded offline and can be synchronised later.
    """

    def __init__(self, run_dir: Path, label: str, config: dict[str, Any]) -> None:
        self.run = None
        project = os.environ.get("MODUV_WANDB")
        if not project:
            return
        import wandb  # slow to import, and most runs do without it

        self.run = wandb.init(
            project=project,
            name=label,
            dir=str(run_dir),
            config=config,
            mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
            resume="allow",
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.run is not None:
            self.run.log(values, step=step)

    def log_pictures(self, pictures: dict[str, Any], step: int) -> None:
        """Log pictures (H, W, 3) uint8."""
        if self.run is not None:
            import wandb

            self.run.log({name: wandb.Image(p) for name, p in pictures.items()}, step=step)

    def finish(self) -> None:
        if self.run is not None:
            self.run.finish()

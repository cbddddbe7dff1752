"""Progress bars, JSON lines and wandb."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm as terminal_tqdm
from tqdm.auto import tqdm

Item = TypeVar("Item")


@dataclass(frozen=True)
class RunProgress:
    """The run that progress bars belong to."""

    part: str
    """Which part the bars are of, e.g. `[2/13]`."""
    left: Callable[[float], str]
    """What is left of the run, in words, from the seconds that are left of the bar."""


_whole: RunProgress | None = None


@contextmanager
def run_progress(whole: RunProgress) -> Iterator[None]:
    """Make progress bars inside also show the progress of the run."""
    global _whole
    before, _whole = _whole, whole
    try:
        yield
    finally:
        _whole = before


class _RunBar(terminal_tqdm):
    """A bar that also shows the step and the remaining time of the run."""

    @property
    def format_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = super().format_dict
        rate = values["rate"] or (values["n"] - values["initial"]) / max(values["elapsed"], 1e-9)
        missing = (values["total"] or values["n"]) - values["n"]
        assert _whole is not None
        return {
            **values,
            "part": _whole.part,
            "run_left": _whole.left(missing / rate if rate else 0.0),
        }


def progress_bar(iterable: Iterable[Item] | None = None, **options: Any) -> Any:
    """A tqdm bar that appears once the work has lasted two seconds; tqdm's options."""
    options = {"delay": 2, "dynamic_ncols": sys.stderr.isatty(), **options}
    if _whole is None:
        return tqdm(iterable, **options)
    form = "{part} {l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    return _RunBar(iterable, bar_format=form + " run: {run_left} left", **options)


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
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()


class JsonLines:
    """Append-only log of a training run, one JSON object a line.

    On resume, lines beyond the step that the run restarts from are dropped, so that the log of a
    killed run reads like that of an uninterrupted one.
    """

    def __init__(self, path: str | Path, *, resume_step: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in read_log(self.path) if entry["step"] <= resume_step]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

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

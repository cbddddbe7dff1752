"""What a training writes down: log lines, wandb, and what a watch sees of the networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.log import JsonLines, WandbRun


class Watch(Protocol):
    """What looks at the networks while they are trained, on the main process."""

    @property
    def every(self) -> int:
        """Steps between looks, a multiple of the loop's `log_every`."""
        ...

    def __call__(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers that join the step's log line, and pictures (H, W, 3) uint8 by name."""


def check_watch(label: str, watch: Watch | None, log_every: int) -> None:
    """Raises InputError when the watch looks at other steps than are logged."""
    if watch is not None and watch.every % log_every:
        raise InputError(
            f"{label}: validation every {watch.every} steps falls between the log's lines; choose a "
            f"multiple of log_every, {log_every}."
        )


class Journal:
    """The log and the wandb run of a training, kept by the main process."""

    def __init__(
        self, run_dir: Path, label: str, config: dict[str, Any], start: int, watch: Watch | None
    ) -> None:
        self.log = JsonLines(run_dir / "log.jsonl", resume_step=start)
        self.wandb = WandbRun(run_dir, label, config)
        self.watch = watch

    def write(self, step: int, learning_rate: float, means: dict[str, float]) -> None:
        """Write a line; where the watch is due it looks first, and may leave the networks in evaluation mode."""
        if self.watch is not None and step % self.watch.every == 0:
            numbers, pictures = self.watch(step)
            means = means | numbers
            self.wandb.log_pictures(pictures, step)
        self.log.write({"step": step, "learning_rate": learning_rate, **means})
        self.wandb.log(means, step)

    def finish(self) -> None:
        self.wandb.finish()

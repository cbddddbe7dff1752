"""The record of a training: sums on the device, log lines, wandb, and a watch on the networks."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, reason_of
from moduv.engine.log import read_log


class Watch(Protocol):
    """What looks at the networks while they are trained, on the main process."""

    @property
    def every(self) -> int:
        """Steps between looks, a multiple of the loop's `log_every`."""
        ...

    def __call__(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers that join the step's log line, and pictures (H, W, 3) uint8 by name."""


class Journal:
    """The log of a training, one JSON object a line, and its wandb run; kept by the main process.

    On resume, lines beyond the step that the run restarts from are dropped, so that the log of a killed
    run reads like that of an uninterrupted one.
    """

    def __init__(
        self, run_dir: Path, label: str, config: dict[str, Any], start: int, watch: Watch | None
    ) -> None:
        self.path, self.watch = run_dir / "log.jsonl", watch
        self.wandb = _wandb_run(run_dir, label, config)
        kept = [entry for entry in read_log(self.path) if entry["step"] <= start]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def write(self, step: int, learning_rate: float, means: dict[str, float]) -> None:
        """Write a line; where the watch is due it looks first, and may leave the networks in evaluation mode."""
        pictures: dict[str, np.ndarray] = {}
        if self.watch is not None and step % self.watch.every == 0:
            numbers, pictures = self.watch(step)
            means = means | numbers
        with self.path.open("a") as stream:
            line = {"step": step, "learning_rate": learning_rate, **means}
            stream.write(json.dumps(line) + "\n")
        if self.wandb is not None:
            from wandb import Image

            shown = {name: Image(picture) for name, picture in pictures.items()}
            self.wandb.log(means | shown, step=step)

    def finish(self) -> None:
        """End the wandb run."""
        if self.wandb is not None:
            self.wandb.finish()


def _wandb_run(run_dir: Path, label: str, config: dict[str, Any]) -> Any:
    """A wandb run when `MODUV_WANDB` names a project; without an API key it is recorded offline."""
    project = os.environ.get("MODUV_WANDB")
    if not project:
        return None
    try:
        import wandb  # slow to import, and most runs do without it
    except ModuleNotFoundError:
        raise InputError(
            "MODUV_WANDB is set, and the package 'wandb' is missing; install it with pip install wandb, or unset "
            "MODUV_WANDB."
        ) from None
    try:
        return wandb.init(
            project=project,
            name=label,
            dir=str(run_dir),
            config=config,
            mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
            resume="allow",
        )
    except (wandb.errors.Error, ValueError, TypeError) as error:
        raise InputError(
            f"MODUV_WANDB is {project!r:.80}, and wandb cannot record there ({reason_of(error)}); name a project, "
            "or unset it."
        ) from None


class Tally:
    """Sums of the logged terms since the last log line, kept on the device.

    Reading a number waits for everything the device has still to do, so numbers are read only when a
    line is logged or a state saved; a loss that was not finite in between is remembered.
    """

    def __init__(self, label: str, device: torch.device, sums: dict[str, float]) -> None:
        self.label = label
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in sums.items()
        }
        self._first_bad = torch.tensor(torch.iinfo(torch.int64).max, device=device)

    def add(self, index: int, terms: dict[str, Tensor]) -> None:
        """Count a step's terms."""
        bad = torch.where(terms["loss"].isfinite(), self._first_bad, index)
        self._first_bad = torch.minimum(self._first_bad, bad)
        ones = torch.ones_like(terms["loss"], dtype=torch.float64)
        for name, value in {**terms, "steps": ones}.items():
            before = self._sums.get(name)
            self._sums[name] = value.double() if before is None else before + value

    def check(self) -> None:
        """Raise InputError when a loss was not finite."""
        step = int(self._first_bad)
        if step == torch.iinfo(torch.int64).max:
            return
        bad = [name for name, value in self.values().items() if not math.isfinite(value)]
        raise InputError(
            f"{self.label}: the loss is not finite at step {step} ({', '.join(bad)}); "
            "check the data or lower the learning rate; the last saved state is kept."
        )

    def values(self) -> dict[str, float]:
        """The sums so far and the number of `steps` behind them."""
        return {name: float(value) for name, value in self._sums.items()}

    def means(self) -> dict[str, float]:
        """The means since the last call, and a new start."""
        sums = self.values()
        self._sums = {}
        count = sums.pop("steps")
        return {name: value / count for name, value in sums.items()}

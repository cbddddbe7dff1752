"""Means of what a training loop logs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moduv.engine.errors import InputError


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

"""Schedules by shares of a training, where the published system counts epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ramp(progress: float, span: tuple[float, float]) -> float:
    """A linear ramp from 0 at the first share of a training to 1 at the second, at `progress` in [0, 1]."""
    return float(np.interp(progress, span, (0.0, 1.0)))


def halvings(shares: Sequence[float], step: int, steps: int) -> float:
    """The factor of the learning rate at a step, halved after each of some shares of the training."""
    return float(0.5 ** sum(step >= share * steps for share in shares))


def warm_then_halved(step: int, steps: int) -> float:
    """The factor of the learning rate at a step: warm-up over 2 % of the training, smoothly halved every 20 %."""
    return min(1.0, step / (0.02 * steps)) * 0.5 ** (step / (0.2 * steps))

"""What rises and falls by shares of a training, where the published system counts epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ramp(progress: float, span: tuple[float, float]) -> float:
    """From 0 at the first share of a training to 1 at the second."""
    return float(np.interp(progress, span, (0.0, 1.0)))


def halvings(shares: Sequence[float], step: int, steps: int) -> float:
    """The share of the learning rate that is left at a step, when it is halved after each of some shares of them."""
    return float(0.5 ** sum(step >= share * steps for share in shares))


def warm_then_halved(step: int, steps: int) -> float:
    """The share of the learning rate at a step: it rises for a fiftieth of them, and is halved every fifth, smoothly."""
    return min(1.0, step / (0.02 * steps)) * 0.5 ** (step / (0.2 * steps))

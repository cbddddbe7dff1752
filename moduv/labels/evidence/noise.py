"""Errors that the evidence rests on: of measured flow, depth and grey levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moduv.engine.errors import InputError


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what the evidence rests on."""

    flow: float
    """Of measured flow, pixels, where it comes back to where it started."""
    round_trip: float
    """Of measured flow, in shares of what it misses its start by."""
    relative: float
    """Of depth, as a share of it: moves a point along the epipolar line by that share of its parallax."""
    inverse_depth: float
    """Of inverse depth, in 1 / units of depth: what the share leaves unexplained of far points."""
    across: float
    """Of parallax across the epipolar line, as a share of it."""
    grey: float
    """Of a pixel's grey level in the next frame, where flow leads it."""

    def __post_init__(self) -> None:
        if not all(np.isfinite(value) and value >= 0 for value in vars(self).values()):
            raise InputError(f"errors {vars(self)} are not finite and 0 or more; mend them.")

    def of_flow(self) -> np.ndarray:
        """Flow, round trip, relative, inverse depth and across (5,), as compiled functions take them."""
        return np.array(
            [self.flow, self.round_trip, self.relative, self.inverse_depth, self.across]
        )


FIRST_GUESS = Noise(0.1, 1.0, 0.1, 0.02, 0.05, 3.0)
"""With which poses are refined before errors are known; robust weights forgive factors of two."""

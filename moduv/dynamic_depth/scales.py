"""How deep an object stands: the road where it touches it (Nguyen et al. 2024, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moduv.engine.errors import InputError


@dataclass(frozen=True)
class ScaleConfig:
    """How an object gets its depth."""

    flat: bool = False
    """Give all of an object the depth of its contact, as if it faced the camera; otherwise it keeps the shape that
    the teacher sees."""
    below: int = 1
    """Rows below the mask whose depth is taken for the road's."""
    lowest: float = 0.4
    """Share of the object's columns, those that reach lowest, where it is taken to stand on the road."""

    def __post_init__(self) -> None:
        if self.below < 1 or not 0 < self.lowest <= 1:
            raise InputError(
                f"below is {self.below} and lowest {self.lowest}; use at least 1 row and a share in (0, 1]."
            )


MIN_COLUMNS = 3
"""Columns in which the road below an object must be seen."""


def contact_depth(depth: np.ndarray, mask: np.ndarray, config: ScaleConfig) -> float | None:
    """The scene's depth (H, W) on the road just below an object's mask (H, W) bool.

    None where the road is not seen: the object is empty, or it ends at the image's border.
    """
    height = depth.shape[0]
    columns = np.flatnonzero(mask.any(0))
    rows = height - 1 - mask[::-1, columns].argmax(0)
    seen = rows + config.below < height
    rows, columns = rows[seen], columns[seen]
    if len(columns) < MIN_COLUMNS:
        return None
    standing = rows >= np.quantile(rows, 1 - config.lowest)
    return float(np.median(depth[rows[standing] + config.below, columns[standing]]))

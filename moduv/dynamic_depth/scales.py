"""The depth of an object is that of the road where it stands (Nguyen et al. 2024, section 3.3)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

from moduv.engine.errors import InputError


@dataclass(frozen=True)
class ScaleConfig:
    """How an object gets its depth."""

    plane: bool = True
    """Take the depth from a plane fitted to the whole road of a frame, instead of from the pixels just below the object.
    Where no plane fits, the pixels below are used."""
    flat: bool = False
    """Give the whole object the depth of its contact with the road, as if it were parallel to the image; otherwise it keeps
    the shape that stage 1 predicts."""
    below: int = 1
    """How many rows below the mask the depth of the road is read."""
    lowest: float = 0.4
    """Share of the object's columns, those that reach lowest, in which it stands on the road."""

    def __post_init__(self) -> None:
        if self.below < 1 or not 0 < self.lowest <= 1:
            raise InputError(
                f"below is {self.below} and lowest {self.lowest}; use at least 1 row and a share in (0, 1]."
            )


MIN_COLUMNS = 3
"""Smallest number of columns in which the road must be visible below an object."""
NEAR = 0.3
"""The plane is fitted to rows below this share of the distance from the horizon to the lowest row. Above, the road is narrow
and far, and the disparity of a row is mostly that of what stands beside it."""
MIN_ROWS = 8
"""Smallest number of rows of road for a plane."""
PASSES = 3
"""Number of fits, each with the horizon of the one before."""
FIT = 0.1
"""The road is no plane if the median relative error of its rows' disparities is this or more."""


@dataclass(frozen=True)
class RoadPlane:
    """A level road, whose disparity grows linearly from row to row."""

    slope: float
    """Disparity per row."""
    horizon: float
    """The row where the disparity is 0."""

    def depth(self, row: float) -> float | None:
        """The depth at a row; None at and above the horizon, and less than a row below it."""
        below = row - self.horizon
        return 1 / (self.slope * below) if below >= 1 else None


def fit_road(depth: np.ndarray, objects: np.ndarray) -> RoadPlane | None:
    """Fit the plane of the road to the median disparities of rows, by the Theil-Sen estimator.

    Predicted depth is blurred at edges, so the road just below an object takes on some of the object's depth; a plane uses
    the whole road.

    Args:
        depth: (H, W), positive.
        objects: (H, W) bool, pixels that are not road.

    Returns:
        The plane; None where too little of the road is visible, or it is no plane.
    """
    height = depth.shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows that objects fill
        disparity = np.nanmedian(np.where(objects, np.nan, 1 / depth), 1)
    first = height // 2
    for _ in range(PASSES):
        rows = first + np.flatnonzero(np.isfinite(disparity[first:]))
        if len(rows) < MIN_ROWS:
            return None
        slope, offset, *_ = theilslopes(disparity[rows], rows)
        if slope <= 0:
            return None
        plane = RoadPlane(float(slope), float(-offset / slope))
        error = np.abs(disparity[rows] - slope * (rows - plane.horizon)) / disparity[rows]
        first = int(np.clip(plane.horizon + NEAR * (height - plane.horizon), 0, height)) + 1
    return plane if np.median(error) < FIT else None


def contact_depth(
    depth: np.ndarray, mask: np.ndarray, config: ScaleConfig, plane: RoadPlane | None = None
) -> float | None:
    """The depth of the road where an object stands on it.

    Args:
        depth: (H, W), the scene's.
        mask: (H, W) bool, the object.
        config: where an object stands.
        plane: of the road; without it, the depth is read just below the mask.

    Returns:
        The depth; None where the road is not visible: the object is empty, ends at the lower border of the image or stands
        at the horizon.
    """
    height = depth.shape[0]
    columns = np.flatnonzero(mask.any(0))
    rows = height - 1 - mask[::-1, columns].argmax(0)
    seen = rows + config.below < height
    rows, columns = rows[seen], columns[seen]
    if len(columns) < MIN_COLUMNS:
        return None
    standing = rows >= np.quantile(rows, 1 - config.lowest)
    if plane is not None:
        return plane.depth(float(np.median(rows[standing])) + 0.5)  # the lower edge of its pixels
    return float(np.median(depth[rows[standing] + config.below, columns[standing]]))

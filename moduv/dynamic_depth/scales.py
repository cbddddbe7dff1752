"""How deep an object stands: the road where it touches it (Nguyen et al. 2024, section 3.3)."""

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
    """Fit a plane to the whole road of a frame and ask it for the depth where an object stands, instead of the pixels just
    below it. Where no plane fits, the pixels below are asked."""
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
NEAR = 0.3
"""Share of the way from the horizon to the lowest row from which on rows tell the plane of the road. Above, the road
is narrow and far, and a row's disparity is mostly what stands beside it."""
MIN_ROWS = 8
"""Rows of road that a plane needs."""
PASSES = 3
"""Fits, each with the horizon of the one before."""
FIT = 0.1
"""Median relative difference of the rows' disparity to a plane's from which on the road is no plane."""


@dataclass(frozen=True)
class RoadPlane:
    """A level road, whose disparity grows evenly from row to row."""

    slope: float
    """Disparity a row."""
    horizon: float
    """The row where the disparity is 0."""

    def depth(self, row: float) -> float | None:
        """The depth at a row, None less than a row below the horizon."""
        below = row - self.horizon
        return 1 / (self.slope * below) if below >= 1 else None


def fit_road(depth: np.ndarray, objects: np.ndarray) -> RoadPlane | None:
    """The plane of the road, by the slopes between the medians of rows (Theil and Sen).

    Edges of depth are soft, so that just below an object the road has some of the object's depth; a plane learns
    from all of the road.

    Args:
        depth: (H, W), positive.
        objects: (H, W) bool, pixels that are no road.

    Returns:
        None where too little road is seen, or what is seen is no plane.
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
        plane: of the road; without, the scene's depth just below the mask counts.

    Returns:
        None where the road is not seen: the object is empty, ends at the image's border or stands at the horizon.
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

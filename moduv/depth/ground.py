"""The ground under the camera, below which nothing lies (Dynamo-Depth, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry


@dataclass(frozen=True)
class GroundConfig:
    """How the ground plane is found."""

    share: float = 0.4
    """Lowest share of the rows whose points are considered."""
    samples: int = 5
    tries: int = 100
    tolerance: float = 0.005
    """Largest vertical distance of a point on the plane, in units of depth."""


def above_ground(
    disparity: Tensor,  # (B, 1, h, w)
    inv_K: Tensor,  # (B, 4, 4), for pixels of that size
    min_depth: float,
    max_depth: float,
    ground: GroundConfig | None = None,
    *,
    plane: Tensor | None = None,  # (B, 3)
    generator: torch.Generator | None = None,
) -> Tensor:
    """How far points lie under the ground, in disparity, averaged over pixels.

    The ground is a given `plane`, or the one found among the lowest points. `min_depth` and `max_depth` are
    the depths of disparity 1 and 0.
    """
    ground = ground or GroundConfig()
    depth = geometry.disparity_to_depth(disparity, min_depth, max_depth)
    if plane is None:
        points = geometry.back_project(depth.detach(), inv_K)
        plane = geometry.ransac_plane(
            geometry.ground_points(points, ground.share),
            generator,
            samples=ground.samples,
            tries=ground.tries,
            tolerance=ground.tolerance,
        )
    # Points within the tolerance belong to the ground, so only those below all of it are penalised.
    a, b, c = plane.unbind(-1)
    lowest = torch.stack([a, b, c + ground.tolerance], -1)
    size = (depth.shape[-2], depth.shape[-1])
    floor, seen = geometry.ground_disparity(lowest, inv_K, size, min_depth, max_depth)
    return (F.relu(floor - disparity) * seen).mean()

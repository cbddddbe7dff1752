"""Surface normals of a depth map, and which surfaces are level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = (((0, -1), (-1, 0)), ((0, 1), (1, 0)), ((-1, -1), (1, -1)), ((-1, 1), (1, 1)))
"""Pairs of neighbours (rows, columns) whose vectors from a point span its surface."""


def surface_normals(points: Tensor, distance: int = 1) -> Tensor:
    """Unit normals (B, 3, H, W) of points (B, 3, H, W), of either sign (Xue et al. 2020, section 3.3).

    The mean of the unit normals of four pairs of neighbours, `distance` pixels away; reflected at the border.
    Zero where neighbours coincide. Height and width must exceed 3 x `distance`.
    """
    height, width = (side - 2 * distance for side in points.shape[-2:])

    def vector(step: tuple[int, int]) -> Tensor:
        top, left = (distance * (1 + offset) for offset in step)
        return points[:, :, top : top + height, left : left + width] - centre

    centre = points[:, :, distance:-distance, distance:-distance]
    pairs = [F.normalize(vector(a).cross(vector(b), dim=1)) for a, b in NEIGHBOURS]
    normals = F.normalize(torch.stack(pairs).mean(0))
    return F.pad(normals, (distance,) * 4, mode="reflect")


def level_surfaces(points: Tensor, degrees: float = 10.0, distance: int = 11) -> Tensor:
    """Where points (B, 3, H, W) lie on surfaces within `degrees` of the camera's horizontal, (B, 1, H, W) bool."""
    upright = surface_normals(points, distance)[:, 1:2].abs()
    return upright > math.cos(math.radians(degrees))

"""Rigid motion of the scene and what every pixel adds to it: the residual flow (Nguyen et al. 2024, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.geometry.splatting import EPSILON


def euler_pose(angles: Tensor, translation: Tensor, *, invert: bool = False) -> Tensor:
    """Rigid motions (B, 4, 4): rotation Rx Ry Rz by angles (B, 3) in radians, then translation (B, 3).

    Args:
        invert: the inverse of that motion.
    """
    axes = torch.eye(3, dtype=angles.dtype, device=angles.device)
    about_x, about_y, about_z = (
        geometry.rotation_matrix(axes[axis] * angles[:, axis : axis + 1]) for axis in range(3)
    )
    pose = torch.zeros(len(angles), 4, 4, dtype=angles.dtype, device=angles.device)
    pose[:, :3, :3] = about_x @ about_y @ about_z
    pose[:, :3, 3], pose[:, 3, 3] = translation, 1
    return geometry.inverse_pose(pose) if invert else pose


def residual_coordinates(
    depth: Tensor, K: Tensor, pose: Tensor, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where another camera shows the pixels of a depth map, if each adds its residual flow.

    Args:
        depth: (B, 1, H, W).
        K: (B, 4, 4), pixels.
        pose: (B, 4, 4), from this camera's coordinates to the other's.
        residual: (B, 2, H, W), added to the homogeneous pixel before it is divided by its depth, so in pixels
            x depth; None: nothing moves by itself.

    Returns:
        Coordinates x, y (B, 2, H, W), clamped to the image, and what of them is due to the residual, pixels.
    """
    points = geometry.transform(pose, geometry.back_project(depth, K.inverse()))
    homogeneous = (K[:, :3, :3] @ points.flatten(2)).unflatten(2, depth.shape[-2:])
    pixels, z = homogeneous[:, :2], homogeneous[:, 2:] + EPSILON
    still = _clamped(pixels / z)
    if residual is None:
        return still, torch.zeros_like(still)
    moved = _clamped((pixels + residual) / z)
    return moved, moved - still


def _clamped(coordinates: Tensor) -> Tensor:
    height, width = coordinates.shape[-2:]
    x, y = coordinates.split(1, 1)
    return torch.cat([x.clamp(0, width - 1), y.clamp(0, height - 1)], 1)


def sample(image: Tensor, coordinates: Tensor) -> Tensor:
    """Read an image (B, C, H, W) bilinearly at coordinates x, y (B, 2, h, w) inside of it.

    `geometry.warp` with the published rounding, which decides about structure where an image is saturated.
    """
    height, width = image.shape[-2:]
    x, y = coordinates.unbind(1)
    grid = torch.stack([(x / (width - 1) - 0.5) * 2, (y / (height - 1) - 0.5) * 2], -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)

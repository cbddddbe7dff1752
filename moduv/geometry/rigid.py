"""Rigid motion: axis-angle rotations and 4 x 4 pose matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """Rotations (B, 3, 3) about axes (B, 3) by their length in radians (Rodrigues' formula).

    Zero is the identity, and has a finite gradient.
    """
    # The floor keeps the square root differentiable; below it both ratios are 1 to machine precision.
    angle = axis_angle.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    sine_ratio = torch.sin(angle) / angle
    cosine_ratio = 0.5 * (torch.sin(angle / 2) / (angle / 2)).square()
    cross = _cross_matrix(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine_ratio[..., None] * cross + cosine_ratio[..., None] * (cross @ cross)


def _cross_matrix(vector: Tensor) -> Tensor:
    """The matrix of the cross product with (B, 3), as (B, 3, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def pose_matrix(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Rigid motions (B, 4, 4) that rotate by (B, 3) radians, then translate by (B, 3)."""
    return _assemble(rotation_matrix(axis_angle), translation[..., None])


def inverse_pose(pose: Tensor) -> Tensor:
    """The inverse of rigid motions (B, 4, 4), without solving: R transposed, -Rᵀt."""
    rotation = pose[:, :3, :3].transpose(1, 2)
    return _assemble(rotation, -rotation @ pose[:, :3, 3:])


def _assemble(rotation: Tensor, translation: Tensor) -> Tensor:
    top = torch.cat([rotation, translation], -1)  # (B, 3, 4)
    bottom = torch.zeros_like(top[:, :1])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], 1)


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Apply rigid motions (B, 4, 4) to points (B, 3, H, W)."""
    moved = pose[:, :3, :3] @ points.flatten(2) + pose[:, :3, 3:]
    return moved.view_as(points)

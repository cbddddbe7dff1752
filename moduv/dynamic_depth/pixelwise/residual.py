"""Rigid motion of the scene, and the residual flow of every pixel (Nguyen et al. 2024, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.networks.pose import PoseNet
from moduv.dynamic_depth.networks.residual import ResidualNet
from moduv.geometry.splatting import EPSILON

FAINT = 1e-5
"""Residual flow shorter than this, in pixels, is 0."""
STILL = 0.01
"""Flow of objects shorter than this, |u| + |v| in pixels, is 0."""


def camera_poses(net: PoseNet, frames: Tensor) -> Tensor:
    """Rigid motions (B, 2, 4, 4) from the centre of triplets (B, 3, 3, H, W) to the frames -1 and +1."""
    before, centre, after = frames.unbind(1)
    angles, translation = net(torch.cat([before, centre]), torch.cat([centre, after]))
    count = len(frames)
    backward = euler_pose(angles[:count], translation[:count], invert=True)
    return torch.stack([backward, euler_pose(angles[count:], translation[count:])], 1)


def residual_flow(
    net: ResidualNet, frames: Tensor, depth: Tensor, K: Tensor, poses: Tensor, *, sparse: bool
) -> Tensor:
    """The flow of pixels that move by themselves: what is left after the centre is warped to its neighbours by ego-motion.

    Args:
        frames: (B, 3, 3, H, W) in [0, 1], -1, 0, +1.
        depth: (B, 1, H, W) of the centre.
        K: (B, 4, 4), pixels.
        poses: (B, 2, 4, 4), see `camera_poses`.
        sparse: keep only flow that is at least as long as the mean over the frame.

    Returns:
        (B, 2, 2, H, W), pixels x depth, see `residual_coordinates`; 0 where it is unknown for one of the neighbours.
    """
    centres, neighbours = frames[:, [1, 1]].flatten(0, 1), frames[:, [0, 2]].flatten(0, 1)
    depths, cameras = (field.repeat_interleave(2, 0) for field in (depth, K))
    motions = poses.flatten(0, 1)
    warped, warped_depth = geometry.forward_warp(centres, depths, cameras, motions)
    flow = net(warped, neighbours)
    with torch.no_grad():
        kept = warped_depth > 0
        if sparse:
            length = flow.norm(dim=1, keepdim=True)
            kept = kept & (length >= length.mean((2, 3), keepdim=True)) & (length >= FAINT)
    # Back to the centre along the warped surface.
    back = geometry.inverse_pose(motions)
    found, _ = geometry.forward_warp(flow * kept, warped_depth, cameras, back)
    found = found.unflatten(0, (-1, 2))
    told = (found.detach().sum(2, keepdim=True) != 0).all(1, keepdim=True)
    return found * told


def object_flow(depth: Tensor, K: Tensor, poses: Tensor, residual: Tensor) -> Tensor:
    """The flow (B, 2, 2, H, W) of objects to the frames -1 and +1, in pixels; 0 where it is negligible.

    `depth` is (B, 1, H, W), the others are as in `residual_flow`.
    """
    depths, cameras = (field.repeat_interleave(2, 0) for field in (depth, K))
    _, flow = residual_coordinates(depths, cameras, poses.flatten(0, 1), residual.flatten(0, 1))
    flow = torch.where(flow.abs().sum(1, keepdim=True) < STILL, 0.0, flow)
    return flow.unflatten(0, (-1, 2))


def moving_pixels(flow: Tensor) -> Tensor:
    """The pixels (B, 1, H, W) bool whose flow of objects (B, 2, 2, H, W) is at least a pixel long, |u| + |v|, on average."""
    return flow.abs().sum(2).mean(1, keepdim=True) >= 1


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
    """The coordinates of the pixels of a depth map in another camera, with their residual flow.

    Args:
        depth: (B, 1, H, W).
        K: (B, 4, 4), pixels.
        pose: (B, 4, 4), from this camera's coordinates to the other's.
        residual: (B, 2, H, W), added to the homogeneous coordinates before the division by depth, so its unit is
            pixels x depth; None: a static scene.

    Returns:
        Coordinates x, y (B, 2, H, W), clamped to the image, and the part of them due to the residual, pixels.
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
    """Sample an image (B, C, H, W) bilinearly at coordinates x, y (B, 2, h, w) inside of it.

    Like `geometry.warp`, but rounded as published, which matters for SSIM where an image is saturated.
    """
    height, width = image.shape[-2:]
    x, y = coordinates.unbind(1)
    grid = torch.stack([(x / (width - 1) - 0.5) * 2, (y / (height - 1) - 0.5) * 2], -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)

"""Rigid motion of the scene and what every pixel adds to it: the residual flow (Nguyen et al. 2024, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.networks.pose import PoseNet
from moduv.dynamic_depth.networks.residual import ResidualNet
from moduv.geometry.splatting import EPSILON

FAINT = 1e-5
"""Pixels below which a residual is none."""
STILL = 0.01
"""Pixels, |u| + |v|, below which a flow is taken for that of the camera alone."""


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
    """What pixels move by themselves: the centre moved as if all stood still, and what is left to the neighbours.

    Args:
        frames: (B, 3, 3, H, W) in [0, 1], -1, 0, +1.
        depth: (B, 1, H, W) of the centre.
        K: (B, 4, 4), pixels.
        poses: (B, 2, 4, 4), see `camera_poses`.
        sparse: keep only what is at least as long as the frame's mean, over all pixels.

    Returns:
        (B, 2, 2, H, W), pixels x depth, see `residual_coordinates`; 0 where one of the neighbours tells nothing.
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
    """The flow (B, 2, 2, H, W) in pixels to the frames -1 and +1 that is due to objects; 0 where there is next to none.

    `depth` is (B, 1, H, W), the others are as in `residual_flow`.
    """
    depths, cameras = (field.repeat_interleave(2, 0) for field in (depth, K))
    _, flow = residual_coordinates(depths, cameras, poses.flatten(0, 1), residual.flatten(0, 1))
    flow = torch.where(flow.abs().sum(1, keepdim=True) < STILL, 0.0, flow)
    return flow.unflatten(0, (-1, 2))


def moving_pixels(flow: Tensor) -> Tensor:
    """Where (B, 1, H, W) bool the flow due to objects (B, 2, 2, H, W) is a pixel long, |u| + |v|, on average."""
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

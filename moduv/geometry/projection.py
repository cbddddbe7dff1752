"""Between pixels, disparity, depth and points in front of the camera."""

from __future__ import annotations

import torch
from torch import Tensor


def disparity_to_depth(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Depth of a network's disparity in (0, 1): 0 is `max_depth`, 1 is `min_depth`, linear in 1 / depth."""
    farthest, nearest = 1 / max_depth, 1 / min_depth
    return 1 / (farthest + (nearest - farthest) * disparity)


def depth_to_disparity(depth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """The inverse of `disparity_to_depth`."""
    farthest, nearest = 1 / max_depth, 1 / min_depth
    return (1 / depth - farthest) / (nearest - farthest)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinates (x, y) of all pixel centres, (1, 2, H, W), with the device and type of `like`."""
    ys = torch.arange(height, dtype=like.dtype, device=like.device)
    xs = torch.arange(width, dtype=like.dtype, device=like.device)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])
    return grid[None]


def rays(inv_K: Tensor, height: int, width: int) -> Tensor:
    """Points (B, 3, H, W) at depth 1 behind every pixel, K⁻¹ (x, y, 1); inv_K may be (B, 3, 3)."""
    grid = pixel_grid(height, width, inv_K).flatten(2)  # (1, 2, HW)
    flat = inv_K[:, :3, :2] @ grid + inv_K[:, :3, 2:3]
    return flat.unflatten(2, (height, width))


def back_project(depth: Tensor, inv_K: Tensor) -> Tensor:
    """Points (B, 3, H, W) behind the pixels of a depth map (B, 1, H, W), along the optical axis."""
    return depth * rays(inv_K, depth.shape[-2], depth.shape[-1])


def project(points: Tensor, K: Tensor, *, nearest: float = 1e-3) -> Tensor:
    """Pixel coordinates x, y (B, 2, H, W) of points (B, 3, H, W).

    Points closer than `nearest` to the camera's plane, or behind it, are projected as if they were this far in
    front, which sends them beyond the border instead of mirroring them.
    """
    flat = (points[:, :2] / points[:, 2:].clamp(min=nearest)).flatten(2)
    pixels = K[:, :2, :2] @ flat + K[:, :2, 2:3]
    return pixels.unflatten(2, points.shape[-2:])

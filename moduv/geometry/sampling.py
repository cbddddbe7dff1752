"""Reading images at real-valued positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(image: Tensor, coordinates: Tensor) -> Tensor:
    """Sample an image bilinearly at coordinates x, y (B, 2, h, w) in its pixels; its border continues.

    Returns (B, C, h, w), differentiable in both arguments, NaN where a coordinate is NaN.
    """
    height, width = image.shape[-2:]
    x = coordinates[:, 0] * (2 / max(width - 1, 1)) - 1
    y = coordinates[:, 1] * (2 / max(height - 1, 1)) - 1
    grid = torch.stack([x, y], -1)
    lost = grid.isnan().any(-1, keepdim=True)
    if lost.device.type == "cpu" and not lost.any():
        return _sample(image, grid)
    # On CPUs, torch's forward pass hides NaN coordinates and its backward pass crashes on them.
    sampled = _sample(image, grid.masked_fill(lost, 0.0))
    return sampled.masked_fill(lost.permute(0, 3, 1, 2), torch.nan)


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def resize(field: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bring a field (B, C, h, w) to another size bilinearly; a field of that size is returned as it is."""
    if field.shape[-2:] == tuple(size):
        return field
    return F.interpolate(field, tuple(size), mode="bilinear", align_corners=False)

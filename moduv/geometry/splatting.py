"""Forward warping: where the pixels of one camera land in another, the nearest surface in front."""

from __future__ import annotations

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv.geometry.projection import back_project, rays
from moduv.geometry.rigid import inverse_pose, transform
from moduv.geometry.sampling import warp

EPSILON = 1e-5
"""Added to the depth by which coordinates are divided."""


def forward_warp(
    image: Tensor,
    depth: Tensor,
    K: Tensor,
    pose: Tensor,
    *,
    upsample: int = 3,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What another camera sees of an image, as far as this camera sees it (Nguyen et al. 2024, section 3.1).

    Each pixel is cut into `upsample` x `upsample` points of its depth, which are moved and dropped into the
    other camera's pixels; of several, the nearest stays. Colours are then fetched bilinearly.

    Args:
        image: (B, C, H, W).
        depth: (B, 1, H, W); pixels whose depth is not positive and finite land nowhere.
        K: (B, 4, 4) or (B, 3, 3), in pixels.
        pose: (B, 4, 4), from this camera's coordinates to the other's.
        upsample: points along each side of a pixel; more close gaps where surfaces come nearer.
        residual: (B, 2, H, W), what pixels move by themselves: added to the homogeneous coordinates in the other
            camera before they are divided by depth, so in pixels x depth; None: nothing.

    Returns:
        Image (B, C, H, W) and depth (B, 1, H, W) in the other camera, both 0 where nothing lands. The depth has
        gradients to the depth and pose that moved it, the image to colours and to their places; which point
        lands in which pixel has none.
    """
    winners = _winners(depth.detach(), K.detach(), pose.detach(), upsample, residual)
    source = winners[:, 2].long()
    seen = source[:, None] >= 0
    source = source.clamp_(min=0)
    moved = transform(pose, _gathered(depth, source) * _directions(winners, K, upsample))
    warped_depth = moved[:, 2:].where(seen, torch.zeros_like(depth))
    # Depth 1 instead of 0 in the holes keeps their gradients finite.
    solid = warped_depth.where(seen, torch.ones_like(depth))
    inv_K = K[:, :3, :3].inverse()
    places = back_project(solid, inv_K)
    if residual is not None:
        own = _gathered(residual, source)
        places = places - (inv_K[:, :, :2] @ own.flatten(2)).view_as(places)
    origins = transform(inverse_pose(pose), places)
    return warp(image, homogeneous_coordinates(origins, K)) * seen, warped_depth


def homogeneous_coordinates(points: Tensor, K: Tensor) -> Tensor:
    """Pixel coordinates x, y (B, 2, h, w) of points (B, 3, h, w), K p divided by its depth plus a little."""
    flat = K[:, :3, :3] @ points.flatten(2)
    return (flat[:, :2] / (flat[:, 2:] + EPSILON)).unflatten(2, points.shape[-2:])


def _finer(K: Tensor, upsample: int) -> Tensor:
    """Intrinsics (B, 3, 3) for pixels cut into `upsample` along each side; indices are simply scaled."""
    scale = K.new_tensor([upsample, upsample, 1.0])
    return scale[:, None] * K[:, :3, :3]


def _directions(winners: Tensor, K: Tensor, upsample: int) -> Tensor:
    """Points (B, 3, H, W) at depth 1 behind cut pixels, see `_winners`."""
    grid = winners.to(K.dtype)
    grid[:, 2] = 1
    return (_finer(K, upsample).inverse() @ grid.flatten(2)).unflatten(2, winners.shape[-2:])


def _gathered(field: Tensor, sources: Tensor) -> Tensor:
    """A field (B, C, H, W) read at flat numbers (B, h, w)."""
    flat = sources.flatten(1)[:, None].expand(-1, field.shape[1], -1)
    return field.flatten(2).gather(2, flat).unflatten(2, sources.shape[-2:])


def _winners(
    depth: Tensor, K: Tensor, pose: Tensor, upsample: int, residual: Tensor | None = None
) -> Tensor:
    """For every pixel of the other camera the nearest point that lands there.

    Returns (B, 3, H, W) int32: column and row of the cut pixel, and the flat number of the pixel that it is a part of, -1
    where none lands. Of equally near points, it is the first.
    """
    if depth.device.type != "cpu" or residual is not None:
        return _scattered(depth, K, pose, upsample, residual)
    to_pixels = K[:, :3, :3].double()
    directions = to_pixels @ pose[:, :3, :3].double() @ _finer(K, upsample).double().inverse()
    offsets = (to_pixels @ pose[:, :3, 3:].double())[..., 0]
    winners = np.zeros((len(depth), 3, depth[0].numel()), np.int32)
    images, matrices = depth[:, 0].float().contiguous().numpy(), directions.float().numpy()
    for image, matrix, offset, found in zip(
        images, matrices, offsets.float().numpy(), winners, strict=True
    ):
        _drop(image, matrix, offset, upsample, found)
    return torch.from_numpy(winners).unflatten(2, depth.shape[-2:])


@numba.njit(cache=True, nogil=True)
def _drop(
    depth: np.ndarray, matrix: np.ndarray, offset: np.ndarray, upsample: int, winners: np.ndarray
) -> None:
    """Fill `winners` (3, H W); a cut pixel (x, y) lands at depth x matrix (x, y, 1) + offset, homogeneous."""
    height, width = depth.shape
    columns, rows, sources = winners
    sources[:] = -1
    length = width * upsample
    near, distance = np.empty(length, np.float32), np.empty(length, np.float32)
    places = np.empty(length, np.int32)
    nearest = np.full(height * width, np.float32(np.inf))
    parts = np.arange(length) // upsample
    for row in range(height * upsample):
        if row % upsample == 0:
            near[:] = np.repeat(depth[row // upsample], upsample)
        first = row // upsample * width
        _land(near, matrix, offset, row, height, width, distance, places)
        for column in range(length):
            place = places[column]
            if place >= 0 and distance[column] < nearest[place]:
                nearest[place] = distance[column]
                columns[place], rows[place] = column, row
                sources[place] = first + parts[column]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "arcp", "nsz"})
def _land(
    near: np.ndarray,
    matrix: np.ndarray,
    offset: np.ndarray,
    row: int,
    height: int,
    width: int,
    distance: np.ndarray,
    places: np.ndarray,
) -> None:
    """Where the points of one row land: depths there and flat places, -1 outside. Compiled without branches."""
    line = matrix[:, 1] * np.float32(row) + matrix[:, 2]
    slope, zero, one = matrix[:, 0].copy(), np.float32(0), np.float32(1)
    for column in range(len(near)):
        position = np.float32(column)
        z = near[column] * (slope[2] * position + line[2]) + offset[2]
        share = one / (z + np.float32(EPSILON))
        x = (near[column] * (slope[0] * position + line[0]) + offset[0]) * share
        y = (near[column] * (slope[1] * position + line[1]) + offset[1]) * share
        in_front = (near[column] > zero) & (near[column] < np.float32(np.inf)) & (z > zero)
        # Truncated towards zero: what lands less than a pixel left of the image counts.
        inside = (x > -one) & (x < np.float32(width)) & (y > -one) & (y < np.float32(height))
        x = min(max(x, zero), np.float32(width - 1))
        y = min(max(y, zero), np.float32(height - 1))
        place = np.int32(y) * np.int32(width) + np.int32(x)
        distance[column] = z
        places[column] = place if in_front & inside else np.int32(-1)


@torch.no_grad()
def _scattered(
    depth: Tensor, K: Tensor, pose: Tensor, upsample: int, residual: Tensor | None = None
) -> Tensor:
    """The same by scattering over the whole batch, as devices with many threads do it fast."""
    height, width = depth.shape[-2:]
    directions = rays(_finer(K, upsample).inverse(), height * upsample, width * upsample)
    fine = F.interpolate(depth, scale_factor=upsample)
    points = transform(pose, fine * directions)
    coordinates = homogeneous_coordinates(points, K)
    if residual is not None:
        own = F.interpolate(residual, scale_factor=upsample)
        coordinates = coordinates + own / (points[:, 2:] + EPSILON)
    x, y = coordinates.flatten(2).trunc().unbind(1)  # (B, N)
    z, known = points[:, 2].flatten(1), ((fine > 0) & fine.isfinite()).flatten(1)
    inside = known & (z > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = torch.where(inside, y * width + x, height * width).long()
    distance = torch.where(inside, z, torch.inf)
    shape = (len(depth), height * width + 1)  # the last place takes what lands outside
    nearest = distance.new_full(shape, torch.inf).scatter_reduce(1, pixels, distance, "amin")
    count = pixels.shape[1]
    numbers = torch.arange(count, device=depth.device).expand_as(pixels)
    wins = inside & (distance == nearest.gather(1, pixels))
    numbers = torch.where(wins, numbers, count)
    first = pixels.new_full(shape, count).scatter_reduce(1, pixels, numbers, "amin")[:, :-1]
    row, column = first // (width * upsample), first % (width * upsample)
    found = torch.stack([column, row, row // upsample * width + column // upsample], 1)
    lands = (first < count)[:, None]
    nothing = found.new_tensor([0, 0, -1])[:, None]
    return torch.where(lands, found, nothing).int().unflatten(2, (height, width))

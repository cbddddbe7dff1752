"""L0: instances from a motion mask and depth (MOD-UV, section 3.1).

Moving pixels are clustered like DBSCAN does: the neighbours of a pixel are the moving pixels in the
window around it whose distance from the camera differs by at most `eps`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numba
import numpy as np

from moduv.engine.errors import InputError
from moduv.labels import rle
from moduv.labels.instances import Instances

SMALLEST_EXTENT = 5
"""Instances whose last and first row or column differ by no more than this are dropped."""


def extract_instances(
    motion_mask: np.ndarray,
    depth: np.ndarray,
    inv_K: np.ndarray,
    *,
    window: int = 10,
    motion_threshold: float = 0.1,
    eps: float = 0.03,
    min_samples: int = 100,
    relative: bool = False,
    grow: int = 0,
    smallest_extent: int = SMALLEST_EXTENT,
    source: str = "motion output",
) -> Instances:
    """Cluster moving pixels into instances, exactly as the reference does.

    Args:
        motion_mask: (H, W) in [0, 1]; pixels above `motion_threshold` move.
        depth: (H, W), along the optical axis.
        inv_K: (4, 4) or (3, 3), inverse intrinsics for pixels of that size.
        window: side of the neighbourhood; even, from -window / 2 to window / 2 - 1 in both axes.
        eps: largest difference of range between neighbours, in units of depth.
        min_samples: neighbours, itself included, that make a pixel the core of an instance.
        relative: take `eps` as a share of the pixel's range. Off in the published method, whose eps
            is tied to the arbitrary scale of one depth network.
        grow: pixels by which the clusters spread over connected moving pixels that they left out,
            each to the nearest cluster. Off in the published method, which loses thin parts and
            corners: whatever a moving window does not fit into.
        smallest_extent: see `SMALLEST_EXTENT`.
        source: what an error calls the input.

    Returns:
        Instances in raster order of their first core pixel, without scores.

    Raises:
        InputError: for arrays of different sizes or with numbers that are not finite, and for a
            window or `min_samples` for which the clusters are not defined.
    """
    if window < 2 or window % 2:
        raise InputError(f"window is {window}; choose an even number of pixels, 2 or more.")
    if min_samples < 1:
        raise InputError(f"min_samples is {min_samples}; choose 1 or more.")
    _check(motion_mask, depth, inv_K, source)
    size = (depth.shape[0], depth.shape[1])
    moving = motion_mask.astype(np.float32) > np.float32(motion_threshold)
    if not moving.any():
        return Instances([], np.zeros((0, 4)), size=size)
    # Nothing happens outside the rows and columns in which something moves.
    rows, columns = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
    y0, x0 = int(rows[0]), int(columns[0])
    inside = slice(y0, rows[-1] + 1), slice(x0, columns[-1] + 1)
    moving, distance = moving[inside], ranges(depth, inv_K)[inside]
    full = _full_windows(moving, distance, window, eps, relative)
    labels, count = _cluster(moving, distance, full, window // 2, eps, min_samples, relative)
    if grow:
        _grow(labels, moving, distance, eps, relative, grow)
    masks, boxes = [], []
    for number, (left, top, right, bottom) in enumerate(_extents(labels, count).tolist(), 1):
        if bottom - top <= smallest_extent or right - left <= smallest_extent:
            continue
        crop = labels[top : bottom + 1, left : right + 1] == number
        masks.append(rle.encode_crop(crop, y0 + top, x0 + left, size))
        boxes.append([x0 + left, y0 + top, x0 + right + 1, y0 + bottom + 1])
    return Instances(masks, np.array(boxes), size=size)


def ranges(depth: np.ndarray, inv_K: np.ndarray) -> np.ndarray:
    """Distance of every pixel's point from the camera, (H, W) float32."""
    return _ranges(np.asarray(depth, np.float32), np.asarray(inv_K, np.float32))


@numba.njit(cache=True)
def _ranges(depth: np.ndarray, inv_K: np.ndarray) -> np.ndarray:
    height, width = depth.shape
    distance = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            total = np.float32(0)
            for axis in range(3):
                row = inv_K[axis]
                ray = row[0] * np.float32(x) + row[1] * np.float32(y) + row[2]
                total += (ray * depth[y, x]) ** 2
            distance[y, x] = np.sqrt(total)
    return distance


def _check(motion_mask: np.ndarray, depth: np.ndarray, inv_K: np.ndarray, source: str) -> None:
    if motion_mask.ndim != 2 or motion_mask.shape != depth.shape or not depth.size:
        raise InputError(
            f"{source}: 'mot_mask' {motion_mask.shape} and 'depth' {depth.shape} are not images of "
            "one size; predict the frame again."
        )
    if inv_K.shape not in {(3, 3), (4, 4)}:
        raise InputError(
            f"{source}: 'inv_K' is {inv_K.shape}, not (4, 4); predict the frame again."
        )
    for key, value in (("mot_mask", motion_mask), ("depth", depth), ("inv_K", inv_K)):
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise InputError(
                f"{source}: '{key}' holds numbers that are not finite; predict the frame again."
            )


def _full_windows(
    moving: np.ndarray, distance: np.ndarray, window: int, eps: float, relative: bool
) -> np.ndarray:
    """(H, W): whether the whole window around a pixel lies in the image and consists of its neighbours."""
    half, limit = window // 2, np.float32(eps)
    kernel, anchor = np.ones((window, window), np.uint8), (half, half)
    farthest = cv2.dilate(np.where(moving, distance, np.float32(np.inf)), kernel, anchor=anchor)
    nearest = cv2.erode(np.where(moving, distance, np.float32(-np.inf)), kernel, anchor=anchor)
    reach = limit * distance if relative else limit
    # Differences of rounded numbers keep the numbers' order, so the extremes speak for all.
    full = (np.abs(farthest - distance) <= reach) & (np.abs(nearest - distance) <= reach)
    full[:half], full[:, :half] = False, False
    full[full.shape[0] - half + 1 :], full[:, full.shape[1] - half + 1 :] = False, False
    return full


@numba.njit(cache=True)
def _cluster(
    moving: np.ndarray,
    distance: np.ndarray,
    full: np.ndarray,
    half: int,
    eps: float,
    min_samples: int,
    relative: bool,
) -> tuple[np.ndarray, int]:
    """Label clusters from 1, in raster order of their first core pixel; 0 is noise.

    The neighbour relation is directed, so clusters that only the later one reaches stay apart.
    """
    height, width = moving.shape
    limit: Any = np.float32(eps)
    labels = np.zeros((height, width), np.int32)
    is_core = _cores(moving, distance, full, half, limit, min_samples, relative)
    is_covered = np.zeros((height, width), np.bool_)
    stack = np.empty(height * width, np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            if not is_core[y, x] or labels[y, x]:
                continue
            count += 1
            labels[y, x] = count
            stack[0], depth = y * width + x, 1
            while depth:
                depth -= 1
                py, px = divmod(stack[depth], width)
                here = distance[py, px]
                is_full = full[py, px]
                reach = limit * here if relative else limit
                top, bottom, left, right = _unvisited(is_covered, is_full, py, px, half)
                for qy in range(top, bottom):
                    for qx in range(left, right):
                        if labels[qy, qx] or not moving[qy, qx]:
                            continue
                        if is_full or abs(distance[qy, qx] - here) <= reach:
                            labels[qy, qx] = count
                            if is_core[qy, qx]:
                                stack[depth] = qy * width + qx
                                depth += 1
                is_covered[py, px] = is_full
    return labels, count


@numba.njit(cache=True)
def _cores(
    moving: np.ndarray,
    distance: np.ndarray,
    full: np.ndarray,
    half: int,
    limit: float,
    min_samples: int,
    relative: bool,
) -> np.ndarray:
    """(H, W): whether a pixel has enough neighbours. Only windows that are not full are counted."""
    height, width = moving.shape
    is_core = full & (4 * half * half >= min_samples)
    if 4 * half * half <= min_samples:
        return is_core
    for y in range(height):
        for x in range(width):
            if moving[y, x] and not full[y, x]:
                reach = limit * distance[y, x] if relative else limit
                count = _count(moving, distance, y, x, half, reach, min_samples)
                is_core[y, x] = count >= min_samples
    return is_core


@numba.njit(cache=True)
def _unvisited(
    is_covered: np.ndarray, is_full: bool, y: int, x: int, half: int
) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of the part of a pixel's window that may still hold pixels without label.

    Where the window is full and the pixel to one side of it has had all of its own window labelled, that
    is the column at the other side; likewise for rows.
    """
    height, width = is_covered.shape
    top, bottom = max(0, y - half), min(height, y + half)
    left, right = max(0, x - half), min(width, x + half)
    if is_full:
        if is_covered[y, x - 1]:
            left = right - 1
        elif x + 1 < width and is_covered[y, x + 1]:
            right = left + 1
        if is_covered[y - 1, x]:
            top = bottom - 1
        elif y + 1 < height and is_covered[y + 1, x]:
            bottom = top + 1
    return top, bottom, left, right


@numba.njit(cache=True)
def _grow(
    labels: np.ndarray,
    moving: np.ndarray,
    distance: np.ndarray,
    eps: float,
    relative: bool,
    steps: int,
) -> None:
    """Spread labels in place over moving pixels beside them, within eps in range, ring by ring."""
    height, width = labels.shape
    limit: Any = np.float32(eps)
    queue = np.empty(height * width, np.int64)
    first, last = 0, 0
    for pixel in range(height * width):
        if labels[pixel // width, pixel % width]:
            queue[last] = pixel
            last += 1
    for _ in range(steps):
        ring = last
        while first < ring:
            y, x = divmod(queue[first], width)
            first += 1
            here = distance[y, x]
            reach = limit * here if relative else limit
            for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                qy, qx = y + dy, x + dx
                if not (0 <= qy < height and 0 <= qx < width):
                    continue
                if labels[qy, qx] or not moving[qy, qx]:
                    continue
                if abs(distance[qy, qx] - here) <= reach:
                    labels[qy, qx] = labels[y, x]
                    queue[last] = qy * width + qx
                    last += 1


@numba.njit(cache=True)
def _count(
    moving: np.ndarray,
    distance: np.ndarray,
    y: int,
    x: int,
    half: int,
    reach: float,
    enough: int,
) -> int:
    """Neighbours of a pixel; stops as soon as there cannot be enough."""
    height, width = moving.shape
    here = distance[y, x]
    top, bottom = max(0, y - half), min(height, y + half)
    left, right = max(0, x - half), min(width, x + half)
    missing = (bottom - top) * (right - left) - enough
    count = 0
    for qy in range(top, bottom):
        for qx in range(left, right):
            if moving[qy, qx] and abs(distance[qy, qx] - here) <= reach:
                count += 1
            else:
                missing -= 1
                if missing < 0:
                    return 0
    return count


@numba.njit(cache=True)
def _extents(labels: np.ndarray, count: int) -> np.ndarray:
    """Left, top, right, bottom (inclusive) of every label, (count, 4)."""
    height, width = labels.shape
    extents = np.empty((count, 4), np.int64)
    extents[:, 0], extents[:, 1] = width, height
    extents[:, 2], extents[:, 3] = -1, -1
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                row = extents[labels[y, x] - 1]
                row[0], row[1] = min(row[0], x), min(row[1], y)
                row[2], row[3] = max(row[2], x), max(row[3], y)
    return extents

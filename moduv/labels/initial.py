"""L0: instances from a motion mask and depth (MOD-UV, section 3.1).

Moving pixels are clustered like DBSCAN does: the neighbours of a pixel are the moving pixels in the
window around it whose distance from the camera differs by at most `eps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numba
import numpy as np
from scipy.ndimage import find_objects

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.frames.images import resize_image
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.labels.evidence.config import EvidenceConfig
from moduv.labels.snapped import snap_to_image

MOTIONS, DEPTHS = (-1e-3, 1 + 1e-3), (1e-6, 1e6)
"""Values that motion masks and depths may have; resizing rounds those of masks."""
EVIDENCE = ("mask", "flow")
"""What tells pixels that move: the motion mask of stage 1, or measured flow beyond depth and ego-motion."""
LEAST_SINGULAR = 1e9
"""Condition of a matrix that counts as singular; a camera's is below the square of its focal length."""


@dataclass(frozen=True)
class InitialConfig:
    """Parameters of L0; the defaults are the published ones, for masks of 320 x 480."""

    window: int = 10
    """Side of a pixel's neighbourhood, even: from -window / 2 to window / 2 - 1 in both axes."""
    motion_threshold: float = 0.1
    """Pixels above it move."""
    eps: float = 0.03
    """Largest difference of range between neighbours, in units of depth."""
    min_samples: int = 100
    """Neighbours, itself included, that make a pixel the core of an instance."""
    relative: bool = False
    """Take `eps` as a share of the pixel's range. Off in the published method, whose eps is tied to the
    arbitrary scale of one depth network."""
    smallest_extent: int = 5
    """Instances whose last and first row or column differ by no more than this are dropped."""
    snap: bool = False
    """Fit the instances to the image's colours."""
    certain: float = 0.0
    """With `snap`: instances whose mean motion is below this are dropped unless they have colours of
    their own; 0: none is."""
    evidence: str = "mask"
    """What tells pixels that move: the `mask` of stage 1, as published, or measured `flow`, which needs depth,
    poses and the frames alone. `motion_threshold` and `certain` are of the mask."""
    flow: EvidenceConfig = field(default_factory=EvidenceConfig)
    workers: int = speed_only(2)

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise InputError(f"evidence is {self.evidence!r}; choose one of {EVIDENCE}.")
        if self.window < 2 or self.window % 2:
            raise InputError(
                f"window is {self.window}; choose an even number of pixels, 2 or more."
            )
        if self.min_samples < 1:
            raise InputError(f"min_samples is {self.min_samples}; choose 1 or more.")


def initial_labels(
    motion_mask: np.ndarray,
    depth: np.ndarray,
    K: np.ndarray | None = None,
    image: np.ndarray | None = None,
    config: InitialConfig | None = None,
    *,
    inv_K: np.ndarray | None = None,
    source: str = "motion output",
    **overrides: Any,
) -> Instances:
    """L0 of one frame: moving pixels, clustered by range and, with `snap`, fitted to the image.

    Args:
        motion_mask: (H, W) in [0, 1].
        depth: (H, W), along the optical axis.
        K: (3, 3) or (4, 4), intrinsics for pixels of that size. The inverse, which motion outputs
            hold, is recognised by its focal length below one pixel.
        image: (h, w, 3) uint8 RGB of any size; `snap` needs it.
        config: parameters; None: the published ones.
        inv_K: the inverse intrinsics, in place of K.
        source: what an error calls the input.
        **overrides: single parameters of `InitialConfig`.

    Returns:
        Instances at the size of the mask, without scores.

    Raises:
        InputError: for arrays of different sizes or with numbers that are none of masks or depths, an
            image of another aspect ratio, singular or missing intrinsics, and parameters for which the clusters are
            not defined.
    """
    config = replace(config or InitialConfig(), **overrides)
    inverse = _inverse_intrinsics(K, source) if inv_K is None else np.asarray(inv_K)
    motion_mask, depth = np.asarray(motion_mask), np.asarray(depth)
    instances = extract_instances(motion_mask, depth, inverse, config, source=source)
    if np.linalg.cond(inverse[:3, :3].astype(np.float64)) > LEAST_SINGULAR:
        raise InputError(f"{source}: 'inv_K' cannot be inverted; predict the frame again.")
    if image is not None:
        instances.check_aspect(image.shape, source)
    if not config.snap or image is None or instances.size is None:
        return instances
    motion = [float(motion_mask[mask].mean()) for mask in instances.decode()]
    frame = resize_image(image, *instances.size)
    return snap_to_image(instances, frame, certain=np.array(motion) >= config.certain)


def _inverse_intrinsics(K: np.ndarray | None, source: str) -> np.ndarray:
    """The inverse of K; a matrix that is one already, by its focal length in pixels, as it is."""
    if K is None:
        raise InputError(f"{source}: has no intrinsics; give K or inv_K.")
    K = np.asarray(K)
    if K.shape not in {(3, 3), (4, 4)} or not np.isfinite(K).all():
        raise InputError(
            f"{source}: 'K' is no finite (3, 3) or (4, 4) matrix; give intrinsics in pixels."
        )
    if abs(K[0, 0]) < 1:
        if K[0, 2] > 0:
            raise InputError(
                f"{source}: the focal length in 'K' is {K[0, 0]:g}, as of intrinsics divided by the image's "
                "size; multiply its rows by width and height."
            )
        return K
    try:
        return np.linalg.inv(K.astype(np.float64))
    except np.linalg.LinAlgError:
        raise InputError(f"{source}: 'K' cannot be inverted; give intrinsics in pixels.") from None


def extract_instances(
    motion_mask: np.ndarray,
    depth: np.ndarray,
    inv_K: np.ndarray,
    config: InitialConfig | None = None,
    *,
    source: str = "motion output",
    **overrides: Any,
) -> Instances:
    """Cluster moving pixels into instances, exactly as the reference does; `snap` has no effect here.

    Arguments and errors are those of `initial_labels`; `inv_K` (4, 4) or (3, 3) is needed.

    Returns:
        Instances in raster order of their first core pixel, without scores.

    Raises:
        InputError: for arrays of different sizes or with numbers that are none of masks or depths, and
            a window or `min_samples` for which the clusters are not defined.
    """
    config = replace(config or InitialConfig(), **overrides)
    _check(motion_mask, depth, inv_K, source)
    size = (depth.shape[0], depth.shape[1])
    moving = motion_mask.astype(np.float32) > np.float32(config.motion_threshold)
    if not moving.any():
        return Instances([], np.zeros((0, 4)), size=size)
    # Nothing happens outside the rows and columns in which something moves.
    rows, columns = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
    y0, x0 = int(rows[0]), int(columns[0])
    inside = slice(y0, rows[-1] + 1), slice(x0, columns[-1] + 1)
    moving, distance = moving[inside], ranges(depth, inv_K)[inside]
    window, eps, relative = config.window, config.eps, config.relative
    full = _full_windows(moving, distance, window, eps, relative)
    labels = _cluster(moving, distance, full, window // 2, eps, config.min_samples, relative)
    masks, boxes = [], []
    for number, place in enumerate(find_objects(labels), 1):
        crop = labels[place] == number
        if min(crop.shape) - 1 <= config.smallest_extent:
            continue
        top, left = y0 + place[0].start, x0 + place[1].start
        masks.append(rle.encode_crop(crop, top, left, size))
        boxes.append([left, top, left + crop.shape[1], top + crop.shape[0]])
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
    for key, value, (low, high) in (
        ("mot_mask", motion_mask, MOTIONS),
        ("depth", depth, DEPTHS),
        ("inv_K", inv_K, (-np.inf, np.inf)),
    ):
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise InputError(
                f"{source}: '{key}' holds numbers that are not finite; predict the frame again."
            )
        least, most = float(value.min()), float(value.max())
        if not (low <= least and most <= high):
            raise InputError(
                f"{source}: '{key}' reaches from {least:g} to {most:g}, beyond {low:g} to "
                f"{high:g}; predict the frame again."
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
) -> np.ndarray:
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
    return labels


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

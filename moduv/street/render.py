"""Ray casting of textured quads: exact visibility, depth and identity for every sample of a pixel."""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np

from moduv.frames.camera import Intrinsics
from moduv.street.scene import Scene
from moduv.street.textures import LEVELS, SIZE

FAR = 200.0
"""Depth of the sky in metres."""
NEAR = 0.1
HORIZON, ZENITH = np.array([235, 232, 225]), np.array([150, 185, 225])


def render(
    scene: Scene, frame: int, camera: Intrinsics, supersampling: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a frame.

    A pixel is the mean of `supersampling`² samples spread evenly over it; the middle one lies on the
    pixel's centre (integer coordinates) and gives depth and identity, hence the number must be odd.

    Returns:
        image (H, W, 3) uint8; depth (H, W) float32, along the optical axis in metres; object ids
        (H, W) int32, 0 where the static world is seen.
    """
    height, width = camera.height * supersampling, camera.width * supersampling
    quads = map(np.array, zip(*scene.quads(frame), strict=True))
    corners, rights, downs, texture, identity, tiling = quads
    normals = -np.cross(rights, downs)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    rotation, position = scene.camera(frame)
    gradient = np.linspace(0, 1, height)[:, None, None]
    image = np.empty((height, width, 3), np.float32)
    image[:] = ZENITH * (1 - gradient) + HORIZON * gradient
    depth = np.full((height, width), FAR, np.float32)
    ids = np.zeros((height, width), np.int32)
    _cast(
        corners,
        rights,
        downs,
        normals,
        texture,
        identity,
        tiling.astype(np.float64),
        scene.atlas(),
        np.array([camera.fx, camera.fy, camera.cx, camera.cy]),
        rotation,
        position,
        supersampling,
        image,
        depth,
        ids,
    )
    mean = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    middle = slice(supersampling // 2, None, supersampling)
    pixels = np.clip(np.round(mean), 0, 255).astype(np.uint8)
    return pixels, depth[middle, middle].copy(), ids[middle, middle].copy()


@numba.njit(cache=True)
def _cast(
    corners: np.ndarray,
    rights: np.ndarray,
    downs: np.ndarray,
    normals: np.ndarray,
    texture: np.ndarray,
    identity: np.ndarray,
    tiling: np.ndarray,
    atlas: np.ndarray,
    intrinsics: np.ndarray,
    rotation: np.ndarray,
    position: np.ndarray,
    samples: int,
    image: np.ndarray,
    depth: np.ndarray,
    ids: np.ndarray,
) -> None:
    """Intersect the rays within every front-facing quad's bounding box; the nearest hit stays."""
    fx, fy, cx, cy = intrinsics
    height, width = depth.shape
    for q in range(corners.shape[0]):
        offset = corners[q] - position
        facing = offset @ normals[q]
        if facing >= 0:
            continue
        first_column, first_row, last_column, last_row = _bounds(
            offset, rights[q], downs[q], rotation, intrinsics, samples, width, height
        )
        # In the camera's axes a ray is (x, y, 1): three dot products decide a sample.
        normal, right, down = rotation.T @ normals[q], rotation.T @ rights[q], rotation.T @ downs[q]
        across, along = right @ right, down @ down
        start_u, start_v = (offset @ rights[q]) / across, (offset @ downs[q]) / along
        right /= across
        down /= along
        texel = max(math.sqrt(across) / tiling[q, 0], math.sqrt(along) / tiling[q, 1]) / SIZE
        for row in range(first_row, last_row):
            y = ((row + 0.5) / samples - 0.5 - cy) / fy
            for column in range(first_column, last_column):
                x = ((column + 0.5) / samples - 0.5 - cx) / fx
                slope = normal[0] * x + normal[1] * y + normal[2]
                if slope > -1e-9:
                    continue
                distance = facing / slope
                if distance < NEAR or distance >= depth[row, column]:
                    continue
                u = distance * (right[0] * x + right[1] * y + right[2]) - start_u
                v = distance * (down[0] * x + down[1] * y + down[2]) - start_v
                if u < 0 or u >= 1 or v < 0 or v >= 1:
                    continue
                depth[row, column] = distance
                ids[row, column] = identity[q]
                footprint = distance / (fx * samples) / math.sqrt(max(-slope, 0.15))
                _sample(
                    atlas[texture[q]],
                    u * tiling[q, 0],
                    v * tiling[q, 1],
                    footprint / texel,
                    image[row, column],
                )


@numba.njit(cache=True)
def _bounds(
    offset: np.ndarray,
    right: np.ndarray,
    down: np.ndarray,
    rotation: np.ndarray,
    intrinsics: np.ndarray,
    samples: int,
    width: int,
    height: int,
) -> tuple[int, int, int, int]:
    """Columns and rows of samples that can see a quad; all of them if it reaches behind the camera."""
    fx, fy, cx, cy = intrinsics
    u0, u1, v0, v1 = 1e9, -1e9, 1e9, -1e9
    behind = 0
    for corner in range(4):
        point = offset.copy()
        if corner in (1, 2):
            point += right
        if corner >= 2:
            point += down
        seen = rotation.T @ point
        if seen[2] < NEAR:
            behind += 1
            continue
        u, v = fx * seen[0] / seen[2] + cx, fy * seen[1] / seen[2] + cy
        u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
    if behind == 4:
        return 0, 0, 0, 0
    if behind > 0:
        return 0, 0, width, height
    # Bounded before the conversion to integers: a corner close to the camera projects far outside.
    left = max(0.0, (u0 + 0.5) * samples - 1)
    upper = max(0.0, (v0 + 0.5) * samples - 1)
    last = min(float(width), (u1 + 0.5) * samples + 2)
    lower = min(float(height), (v1 + 0.5) * samples + 2)
    return int(left), int(upper), int(max(last, 0.0)), int(max(lower, 0.0))


@numba.njit(cache=True)
def _sample(strip: np.ndarray, u: float, v: float, scale: float, colour: np.ndarray) -> None:
    """Bilinear look-up, wrapping around, in the mip level whose texels are as large as the pixel."""
    level = 0
    while level < LEVELS - 1 and scale > 1.5 * 2.0**level:
        level += 1
    size = SIZE >> level
    first = 2 * (SIZE - size)
    x, y = (u - math.floor(u)) * size - 0.5, (v - math.floor(v)) * size - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    right, down = x - x0, y - y0
    # Tiled surfaces wrap around; on the others the half texel at the rim is not visible.
    columns = (int(x0) % size, int(x0 + 1) % size)
    rows = (first + int(y0) % size, first + int(y0 + 1) % size)
    for channel in range(3):
        upper = strip[rows[0], columns[0], channel] * (1 - right)
        upper += strip[rows[0], columns[1], channel] * right
        lower = strip[rows[1], columns[0], channel] * (1 - right)
        lower += strip[rows[1], columns[1], channel] * right
        colour[channel] = upper * (1 - down) + lower * down

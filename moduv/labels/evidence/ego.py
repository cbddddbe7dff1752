"""Ego flow: how the static world moves in the image when the camera does; and the pose that explains it best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moduv.engine.compiled import compiled
from moduv.labels.evidence.noise import Noise

SOFTENING = (8.0, 4.0, 2.0, 1.0, 1.0, 1.0)
"""Of each Gauss-Newton step: the factor by which errors are taken to be larger than expected. A pose that
is off by a few pixels would otherwise make every pixel an outlier."""
DAMPING = 1e-6
"""Of the normal equations, in shares of their diagonal: far scenes do not tell a translation."""
ENOUGH = 4000
"""Pixels, about, that a pose is refined on."""
NEAREST = 1e-3
"""Points that come closer to a camera, in units of depth, are not projected."""


@dataclass(frozen=True)
class EgoFlow:
    """Flow of a static world under one camera motion."""

    flow: np.ndarray
    """(H, W, 2): displacement in pixels; NaN where the point leaves the camera's view to behind it."""
    parallax: np.ndarray
    """(H, W, 2): the part of it that depends on depth, pixels."""


def ego_flow(depth: np.ndarray, K: np.ndarray, pose: np.ndarray) -> EgoFlow:
    """Project every pixel's point into a neighbour.

    Args:
        depth: (H, W), along the optical axis.
        K: (3, 3) or (4, 4), intrinsics in pixels.
        pose: (4, 4), from the camera's coordinates to the neighbour's.
    """
    return EgoFlow(*_ego_flow(np.asarray(depth, np.float32), _pinhole(K), pose.astype(np.float64)))


def refine_pose(
    pose: np.ndarray,
    flow: np.ndarray,
    error: np.ndarray,
    depth: np.ndarray,
    K: np.ndarray,
    noise: Noise,
) -> np.ndarray:
    """The pose whose ego flow agrees best with measured flow, by robust least squares.

    Gauss-Newton on the six parameters of a small motion. A pixel counts by its expected error and, where its
    residual is n times as large, by 1 / (1 + (n / 2)^2)^2 (Geman and McClure), so that what moves by itself
    does not count.

    Args:
        pose: (4, 4), the first guess.
        flow: (H, W, 2), measured, pixels.
        error: (H, W), of flow there and back, pixels; infinite where there is none.
        depth: (H, W).
        K: (3, 3) or (4, 4), intrinsics in pixels.
        noise: expected errors.
    """
    arrays = (
        np.asarray(flow, np.float32),
        np.asarray(error, np.float32),
        np.asarray(depth, np.float32),
    )
    camera, refined = _pinhole(K), pose.astype(np.float64)
    stride = max(1, round((depth.size / ENOUGH) ** 0.5))
    for softening in SOFTENING:
        normal, right = _normal_equations(
            *arrays, camera, refined, noise.of_flow(), softening, stride
        )
        diagonal = np.diagonal(normal).copy()
        if not np.isfinite(normal).all() or (diagonal <= 0).any():
            return refined
        step = np.linalg.solve(normal + np.diag(DAMPING * diagonal), right)
        refined = _small_motion(step) @ refined
    return refined


def _pinhole(K: np.ndarray) -> np.ndarray:
    return np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], np.float64)


def _small_motion(step: np.ndarray) -> np.ndarray:
    """The rigid motion (4, 4) of a translation (3,) and a rotation vector (3,)."""
    x, y, z = step[3:]
    angle = float(np.sqrt(x * x + y * y + z * z))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine = np.sinc(angle / np.pi)
    cosine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    motion = np.eye(4)
    motion[:3, :3] += sine * cross + cosine * cross @ cross
    motion[:3, 3] = step[:3]
    return motion


@compiled
def _ego_flow(
    depth: np.ndarray, camera: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    height, width = depth.shape
    fx, fy, cx, cy = camera
    flow = np.empty((height, width, 2), np.float32)
    parallax = np.empty((height, width, 2), np.float32)
    for v in range(height):
        for u in range(width):
            x, y, z = (u - cx) / fx, (v - cy) / fy, depth[v, u]
            rx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2]
            ry = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2]
            rz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2]
            tz = rz + pose[2, 3] / z
            if rz * z < NEAREST or tz * z < NEAREST:
                flow[v, u, :] = np.nan
                parallax[v, u, :] = 0.0
                continue
            far_u, far_v = fx * rx / rz + cx, fy * ry / rz + cy
            near_u = fx * (rx + pose[0, 3] / z) / tz + cx
            near_v = fy * (ry + pose[1, 3] / z) / tz + cy
            flow[v, u, 0], flow[v, u, 1] = near_u - u, near_v - v
            parallax[v, u, 0], parallax[v, u, 1] = near_u - far_u, near_v - far_v
    return flow, parallax


@compiled
def _normal_equations(
    flow: np.ndarray,
    error: np.ndarray,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    noise: np.ndarray,
    softening: float,
    stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Left (6, 6) and right side (6,) of one Gauss-Newton step, of every `stride`-th row and column."""
    height, width = depth.shape
    fx, fy, cx, cy = camera
    flow_noise, round_trip, relative, inverse_depth, across = noise
    normal = np.zeros((6, 6))
    right = np.zeros(6)
    J = np.zeros((2, 6))
    for v in range(stride // 2, height, stride):
        for u in range(stride // 2, width, stride):
            e = error[v, u]
            if not e < 1e3:
                continue
            z = depth[v, u]
            px, py = (u - cx) / fx, (v - cy) / fy
            rx = (pose[0, 0] * px + pose[0, 1] * py + pose[0, 2]) * z
            ry = (pose[1, 0] * px + pose[1, 1] * py + pose[1, 2]) * z
            rz = (pose[2, 0] * px + pose[2, 1] * py + pose[2, 2]) * z
            x, y, w = rx + pose[0, 3], ry + pose[1, 3], rz + pose[2, 3]
            if rz < NEAREST or w < NEAREST:
                continue
            near_u, near_v = fx * x / w + cx, fy * y / w + cy
            pu, pv = near_u - (fx * rx / rz + cx), near_v - (fy * ry / rz + cy)
            ru, rv = flow[v, u, 0] - (near_u - u), flow[v, u, 1] - (near_v - v)
            isotropic = flow_noise**2 + (round_trip * e) ** 2
            squared = pu * pu + pv * pv
            length = np.sqrt(squared)
            du, dv = (pu / length, pv / length) if length > 1e-6 else (1.0, 0.0)
            inverse_along = 1.0 / (isotropic + (relative**2 + (inverse_depth * z) ** 2) * squared)
            inverse_across = 1.0 / (isotropic + across**2 * squared)
            # The inverse covariance, with the epipolar line's direction as one of its axes.
            a = inverse_along * du * du + inverse_across * dv * dv
            b = (inverse_along - inverse_across) * du * dv
            c = inverse_along * dv * dv + inverse_across * du * du
            n2 = (a * ru * ru + 2 * b * ru * rv + c * rv * rv) / softening**2
            weight = 1.0 / (1.0 + n2 / 4.0) ** 2
            ju, jw = fx / w, fy / w
            J[0, 0], J[0, 1], J[0, 2] = ju, 0.0, -ju * x / w
            J[1, 0], J[1, 1], J[1, 2] = 0.0, jw, -jw * y / w
            for row in range(2):
                tx, ty, tz = J[row, 0], J[row, 1], J[row, 2]
                J[row, 3] = tz * y - ty * w
                J[row, 4] = tx * w - tz * x
                J[row, 5] = ty * x - tx * y
            for i in range(6):
                gu = weight * (a * J[0, i] + b * J[1, i])
                gv = weight * (b * J[0, i] + c * J[1, i])
                right[i] += gu * ru + gv * rv
                for j in range(i, 6):
                    normal[i, j] += gu * J[0, j] + gv * J[1, j]
    for i in range(6):
        for j in range(i):
            normal[i, j] = normal[j, i]
    return normal, right

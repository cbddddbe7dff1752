"""How far measured flow is from ego flow, in units of the error that is expected there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moduv.engine.compiled import compiled
from moduv.labels.evidence.ego import EgoFlow
from moduv.labels.evidence.noise import Noise

DISAGREEMENT = 0.1
"""Share of the neighbours' disagreement about a velocity that counts as the variance of their mean."""


@dataclass(frozen=True)
class Measured:
    """Optical flow from a frame to a neighbour."""

    flow: np.ndarray
    """(H, W, 2), pixels."""
    error: np.ndarray
    """(H, W), pixels: how far flow there and back ends from its start; infinite where there is none."""
    baseline: float
    """Time to the neighbour in frames; below zero for earlier ones."""


@dataclass(frozen=True)
class Statistic:
    """Motion beside the camera's."""

    length: np.ndarray
    """(H, W) float32: Mahalanobis length of the velocity; about 1 where nothing moves."""
    velocity: np.ndarray
    """(H, W, 2) float32: pixels a frame."""


def motion_statistic(
    measured: Sequence[Measured], ego: Sequence[EgoFlow], depth: np.ndarray, noise: Noise
) -> Statistic:
    """Velocities beside the camera's, averaged over the neighbours, in units of their expected error.

    Flow is wrong alike in all directions and independently in every neighbour. Depth is wrong in the same
    way for all neighbours: its error moves a point along the epipolar line, in proportion to the parallax.

    Args:
        measured: flow to each neighbour.
        ego: ego flow to each, with refined poses.
        depth: (H, W).
        noise: expected errors.
    """
    length, velocity = _statistic(
        np.stack([m.flow for m in measured]).astype(np.float32),
        np.stack([m.error for m in measured]).astype(np.float32),
        np.stack([e.flow for e in ego]),
        np.stack([e.parallax for e in ego]),
        np.array([m.baseline for m in measured]),
        np.asarray(depth, np.float32),
        noise.of_flow(),
        DISAGREEMENT,
    )
    return Statistic(length, velocity)


@compiled
def _statistic(
    flows: np.ndarray,
    errors: np.ndarray,
    egos: np.ndarray,
    parallaxes: np.ndarray,
    baselines: np.ndarray,
    depth: np.ndarray,
    noise: np.ndarray,
    disagreement: float,
) -> tuple[np.ndarray, np.ndarray]:
    count, height, width = errors.shape
    flow_noise, round_trip, relative, inverse_depth, across = noise
    length = np.zeros((height, width), np.float32)
    velocity = np.zeros((height, width, 2), np.float32)
    for v in range(height):
        for u in range(width):
            total, mu, mv, square, pu, pv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for n in range(count):
                e, b = errors[n, v, u], baselines[n]
                ru = (flows[n, v, u, 0] - egos[n, v, u, 0]) / b
                rv = (flows[n, v, u, 1] - egos[n, v, u, 1]) / b
                if not e < 1e3 or not np.isfinite(ru + rv):
                    continue
                weight = b * b / (flow_noise**2 + (round_trip * e) ** 2)
                total += weight
                mu += weight * ru
                mv += weight * rv
                square += weight * (ru * ru + rv * rv)
                pu += weight * parallaxes[n, v, u, 0] / b
                pv += weight * parallaxes[n, v, u, 1] / b
            if total == 0.0:
                continue
            mu, mv, pu, pv = mu / total, mv / total, pu / total, pv / total
            spread = max(0.0, square / total - mu * mu - mv * mv)
            isotropic = 1.0 / total + disagreement * spread
            squared = pu * pu + pv * pv
            root = np.sqrt(squared)
            du, dv = (pu / root, pv / root) if root > 1e-6 else (1.0, 0.0)
            r_along, r_across = mu * du + mv * dv, mv * du - mu * dv
            depth_error = (relative**2 + (inverse_depth * depth[v, u]) ** 2) * squared
            length[v, u] = np.sqrt(
                r_along**2 / (isotropic + depth_error)
                + r_across**2 / (isotropic + across**2 * squared)
            )
            velocity[v, u, 0], velocity[v, u, 1] = mu, mv
    return length, velocity

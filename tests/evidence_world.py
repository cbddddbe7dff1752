"""A camera, its errors and its turns, for the tests of measured flow."""

from __future__ import annotations

import numpy as np

from moduv.frames.camera import Intrinsics
from moduv.labels.evidence.config import EvidenceConfig
from moduv.labels.evidence.noise import Noise
from moduv.labels.initial import InitialConfig

HEIGHT, WIDTH = 96, 160
CAMERA = Intrinsics(115.0, 115.0, 79.5, 43.0, WIDTH, HEIGHT)
NOISE = Noise(0.05, 0.5, 0.05, 0.01, 0.02, 2.0)
CONFIG = InitialConfig(
    window=4,
    eps=0.3,
    min_samples=10,
    relative=True,
    smallest_extent=4,
    evidence="flow",
    flow=EvidenceConfig(sample=8),
    workers=1,
)


def turn(x: float, y: float, z: float, move: tuple[float, float, float]) -> np.ndarray:
    """A small rigid motion: rotations in radians about the axes, then a translation."""
    pose = np.eye(4)
    pose[:3, :3] += [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    pose[:3, :3] = np.linalg.qr(pose[:3, :3])[0] * np.sign(np.diag(np.linalg.qr(pose[:3, :3])[1]))
    pose[:3, 3] = move
    return pose

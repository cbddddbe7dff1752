"""Odometry: absolute trajectory error over short tracks, up to scale (Zhou et al. 2017)."""

from __future__ import annotations

import numpy as np

from moduv.engine.errors import InputError

TRACK_LENGTH = 5


def trajectory(relative_poses: np.ndarray) -> np.ndarray:
    """Camera positions (N + 1, 3) along relative poses (N, 4, 4), from the origin.

    Each pose takes the coordinates of the next camera to those of the one before.
    """
    pose = np.eye(4)
    positions = [pose[:3, 3].copy()]
    for relative in np.asarray(relative_poses, dtype=np.float64):
        pose = pose @ relative
        positions.append(pose[:3, 3].copy())
    return np.array(positions)


def trajectory_error(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Distance of two tracks (N, 3) after moving the start and scaling by least squares.

    A prediction that stands still stays at the start. The root of the summed squares over N, not the root of their mean: the published numbers are so.
    """
    moved = predicted + (truth[0] - predicted[0])
    scale = np.sum(truth * moved) / max(float(np.sum(moved**2)), np.finfo(float).tiny)
    return float(np.sqrt(np.sum((truth - scale * moved) ** 2)) / len(truth))


def track_errors(
    truth: np.ndarray, predicted: np.ndarray, *, track_length: int = TRACK_LENGTH
) -> np.ndarray:
    """Errors of all tracks of `track_length` frames along relative poses (N, 4, 4): (N - 2,).

    As published, a track starts at each of the first N - 2 frames, and those near the end are cut
    short by it. The unit is that of the truth. Raises InputError for poses that do not pair up, or
    are fewer than three.
    """
    if truth.shape != predicted.shape or truth.shape[1:] != (4, 4):
        raise InputError(
            f"true poses are {truth.shape} and predicted poses {predicted.shape}; "
            "give (N, 4, 4) for the same frames."
        )
    if len(truth) < 3:
        raise InputError(f"{len(truth)} poses make no track; give at least three.")
    steps = track_length - 1
    return np.array(
        [
            trajectory_error(trajectory(truth[i : i + steps]), trajectory(predicted[i : i + steps]))
            for i in range(len(truth) - 2)
        ]
    )


def summarise(errors: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation over tracks, under the names of `metrics.json`."""
    return {"odometry/ATE": float(np.mean(errors)), "odometry/ATE_std": float(np.std(errors))}

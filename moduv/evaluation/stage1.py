"""Stage 1 against truth: motion masks, depth and ego-motion, on the street world and on real data.

The truth of a frame is a dense map with instances (the street world), or lidar points with labels of
pixels or points, in the layouts of the real data sets (see `moduv.frames.layouts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from moduv.datasets.truth import read_truth
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import progress, say
from moduv.evaluation import odometry
from moduv.evaluation.depth import (
    KITTI,
    WAYMO,
    DepthErrors,
    DepthProtocol,
    NoDepthPoints,
    depth_errors,
)
from moduv.evaluation.depth import summarise as summarise_depth
from moduv.evaluation.motion import Curve, MotionMeter
from moduv.frames import layouts
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import BACKGROUND, MOVING, STATIC

LABEL_NAMES = {BACKGROUND: "background", MOVING: "moving", STATIC: "static"}


def evaluate_motion_outputs(
    motion_root: str | Path,
    truth_root: str | Path,
    frames: Sequence[FrameRef],
) -> tuple[dict[str, float], Curve | None]:
    """Metrics of predicted motion masks, depths and ego-motion, and the masks' curve.

    Args:
        motion_root: `<segment>/NNNNNN.npz` with depth (h, w), and mot_mask (h, w) and pose where stage 1
            has them.
        truth_root: see `read_truth`; frames without truth are left out.
        frames: which.

    The dictionary holds `motion/AP`, `motion/base_rate`, `motion/best_F1`, …, `depth/abs_rel`,
    `depth/d1`, `depth/abs_rel_moving`, …, and `odometry/ATE`, as far as there is truth. Frames whose
    depth points are none, or none in the protocol's range, are counted and left out of depth's.
    Raises InputError naming a file that is missing or damaged, and when there is no truth at all.
    """
    truth_root = Path(truth_root)
    meter, depths = MotionMeter(), list[DepthErrors]()
    unknown = 0
    skipped: list[str] = []  # of the frames of which no depth point counts, why
    for frame in progress(frames, desc="motion metrics", unit="frame"):
        path = frame.file(motion_root, ".npz")
        output = read_npz(path, ("depth",), ("mot_mask",))
        truth = read_truth(truth_root, frame)
        if truth is None:
            unknown += 1
            continue
        if not (np.isfinite(output["depth"]) & (output["depth"] > 0)).all():
            raise InputError(f"{path}: 'depth' is not positive and finite; predict it again.")
        if truth.labels is not None and "mot_mask" in output:
            size = (truth.width, truth.height)
            mask = cv2.resize(output["mot_mask"].astype(np.float32), size)
            meter.add(np.clip(mask, 0, 1), truth.labels)
        if truth.points is not None:
            disparity = 1.0 / np.maximum(output["depth"].astype(np.float32), 1e-6)
            known = (truth.points, truth.height, truth.width)
            protocol = _protocol_of(truth_root, frame)
            try:
                depths.append(depth_errors(disparity, *known, protocol, truth.labels))
            except NoDepthPoints as error:
                skipped.append(str(error))
    if 0 < unknown < len(frames):
        say(f"  {unknown} of {len(frames)} frames have no truth, left out")
    if skipped:
        total = len(skipped) + len(depths)
        say(f"  depth: {len(skipped)} of {total} frames left out, {skipped[0]}")
    metrics, curve = meter.result() if meter.moving_pixels else ({}, None)
    if depths:
        summary = summarise_depth(depths, LABEL_NAMES)
        metrics |= {f"depth/{name}": value for name, value in summary.items()}
    if not metrics and skipped:
        raise InputError(
            f"{truth_root}: no frame with depth points is left of {len(frames)}: {skipped[0]}"
        )
    if not metrics:
        raise InputError(
            f"{truth_root}: has neither depth nor motion truth for these {len(frames)} frames; give the "
            "street world's truth folder or a prepared data set."
        )
    errors = ego_motion_errors(Path(motion_root), truth_root, frames)
    if len(errors):
        metrics |= odometry.summarise(errors)
    return metrics, curve


def ego_motion_errors(
    motion_root: Path, truth_root: Path, frames: Sequence[FrameRef]
) -> np.ndarray:
    """Errors in metres of all tracks along consecutive frames whose outputs hold a `pose`.

    A track needs three relative poses; a segment without enough of them, or without true poses,
    contributes none.
    """
    errors = [
        odometry.track_errors(*relative)
        for run in _consecutive(frames)
        if (relative := _relative_poses(motion_root, truth_root, run)) is not None
    ]
    return np.concatenate(errors) if errors else np.empty(0)


def _consecutive(frames: Sequence[FrameRef]) -> list[list[FrameRef]]:
    """Runs of three and more frames that follow each other."""
    ordered = sorted(frames)
    runs: list[list[FrameRef]] = [ordered[:1]]
    for before, frame in pairwise(ordered):
        if frame == before.neighbour(1):
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return [run for run in runs if len(run) >= 3]


def _relative_poses(
    motion_root: Path, truth_root: Path, run: list[FrameRef]
) -> tuple[np.ndarray, np.ndarray] | None:
    """True and predicted poses (N, 4, 4) from each next camera to the one before."""
    poses = layouts.camera_poses(truth_root, run[0].segment)
    if poses is None or run[-1].index + 1 >= len(poses):
        return None
    predicted = []
    for frame in run:
        pose = layouts.array_of(frame.file(motion_root, ".npz"), "pose")
        if pose is None:
            return None
        # Stored: from the centre camera to each neighbour's.
        predicted.append(np.linalg.inv(pose[1].astype(np.float64)))
    indices = [frame.index for frame in run]
    truth = [np.linalg.inv(poses[index]) @ poses[index + 1] for index in indices]
    return np.array(truth), np.array(predicted)


def _protocol_of(root: Path, frame: FrameRef) -> DepthProtocol:
    return KITTI if layouts.layout_of(root, frame.segment).name == "kitti" else WAYMO

"""Stage 1 against the truth of the street world: motion masks and depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from moduv.engine.files import read_npz
from moduv.engine.log import progress
from moduv.evaluation.depth import WAYMO, DepthMeter, DepthProtocol, depth_errors, points_of_map
from moduv.evaluation.motion import BACKGROUND, MOVING, STATIC, MotionMeter, MotionMetrics
from moduv.frames.clip import FrameRef

LABEL_NAMES = {BACKGROUND: "background", MOVING: "moving", STATIC: "static"}


def motion_labels(instances: np.ndarray, ids: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Instance ids (H, W), 0 for background, to labels: 0 background, 1 moving, 2 static.

    ids, moving  (n,), the objects of the clip and whether each moves
    """
    return np.where(
        instances == 0,
        BACKGROUND,
        np.where(np.isin(instances, ids[moving.astype(bool)]), MOVING, STATIC),
    )


def evaluate_motion_outputs(
    motion_root: str | Path,
    truth_root: str | Path,
    frames: Sequence[FrameRef],
    *,
    protocol: DepthProtocol = WAYMO,
) -> tuple[dict[str, float], MotionMetrics]:
    """Metrics of predicted motion masks and depths, and the motion metrics with their curves.

    motion_root  `<segment>/NNNNNN.npz` with mot_mask and depth (h, w)
    truth_root   `<segment>/NNNNNN.npz` with depth (H, W) in metres, instances, ids, moving

    The dictionary holds `motion/AP`, `motion/base_rate`, `motion/best_F1`, … and `depth/abs_rel`,
    `depth/d1`, `depth/abs_rel_moving`, …. Raises InputError naming a file that is missing or
    damaged, and when no frame has a moving pixel.
    """
    motion_meter, depth_meter = MotionMeter(), DepthMeter()
    for frame in progress(frames, desc="motion metrics", unit="frame"):
        output = read_npz(frame.file(motion_root, ".npz"), ("mot_mask", "depth"))
        truth = read_npz(frame.file(truth_root, ".npz"), ("depth", "instances", "ids", "moving"))
        height, width = truth["depth"].shape
        labels = motion_labels(truth["instances"], truth["ids"], truth["moving"])
        mask = cv2.resize(
            output["mot_mask"].astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        motion_meter.add(np.clip(mask, 0, 1), labels)
        disparity = 1.0 / np.maximum(output["depth"].astype(np.float32), 1e-6)
        points = points_of_map(truth["depth"].astype(np.float32))
        depth_meter.add(depth_errors(disparity, points, height, width, protocol, labels))
    motion = motion_meter.result()
    depth = {f"depth/{name}": v for name, v in depth_meter.result(LABEL_NAMES).items()}
    return motion.summary() | depth, motion

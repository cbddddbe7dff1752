"""What can be measured without ground truth: how label sets agree, in time and with each other.

None of these is a quality by itself (labels that are always empty are consistent), so counts and sizes
stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou

from moduv.engine.log import progress
from moduv.frames.clip import FrameRef
from moduv.frames.images import optical_flow, read_image, small_grey
from moduv.labels.instances import Instances
from moduv.labels.store import is_labelled, read_labels

FLOW_WIDTH = 320
"""Width at which optical flow is measured, pixels."""
MATCH = 0.5
"""IoU from which two instances count as the same."""


def label_agreement(
    before: Path, after: Path, frames: Sequence[FrameRef], *, match: float = MATCH
) -> dict[str, float]:
    """How a label set changes from one round to the next.

    Args:
        before, after: label roots, of masks of any sizes.
        frames: those that both have are compared.
        match: box IoU from which two instances are the same.

    Returns:
        `kept`: share of the earlier instances that the later set has too; `new`: share of the later
        ones that the earlier set lacks; `iou`: mean IoU of the pairs. Shares of nothing are -1.
    """
    kept, new, ious = [0, 0], [0, 0], list[float]()
    for frame in frames:
        if not (is_labelled(before, frame) and is_labelled(after, frame)):
            continue
        old, fresh = _unit_boxes(read_labels(before, frame)), _unit_boxes(read_labels(after, frame))
        iou = _box_iou(old, fresh)
        best_old = iou.max(1, initial=0.0)
        kept[0] += int((best_old >= match).sum())
        kept[1] += len(old)
        new[0] += int((iou.max(0, initial=0.0) < match).sum())
        new[1] += len(fresh)
        ious += best_old[best_old >= match].tolist()
    return {
        "kept": _share(*kept),
        "new": _share(*new),
        "iou": float(np.mean(ious)) if ious else -1.0,
    }


def temporal_consistency(
    labels: Callable[[FrameRef], Instances],
    frames: Sequence[FrameRef],
    data: Path,
    *,
    match: float = MATCH,
) -> float:
    """Share of the instances that are found again in the next frame, where optical flow carries them.

    Args:
        labels: the instances of a frame.
        frames: instances of a frame count where its successor is among them.
        data: folder of the frames.
        match: IoU from which a carried box and a box of the next frame are the same instance.

    Instances that leave the picture do not count. -1 where there is none.
    """
    known, found, total = set(frames), 0, 0
    pairs = [(f, f.neighbour(1)) for f in frames if f.neighbour(1) in known]
    for frame, later in progress(pairs, desc="consistency", unit="pair"):
        now, then = labels(frame), labels(later)
        if not len(now):
            continue
        carried = carry_boxes(now, *(read_image(f.image_path(data)) for f in (frame, later)))
        centres = (carried[:, :2] + carried[:, 2:]) / 2
        inside = ((centres > 0) & (centres < 1)).all(1)
        iou = _box_iou(carried[inside], _unit_boxes(then))
        found += int((iou.max(1, initial=0.0) >= match).sum())
        total += int(inside.sum())
    return _share(found, total)


def carry_boxes(instances: Instances, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Boxes (N, 4), in shares of width and height, moved by the median optical flow in their masks.

    before, after  images (H, W, 3) uint8 of the instances' frame and the next
    """
    field = optical_flow(small_grey(before, FLOW_WIDTH), small_grey(after, FLOW_WIDTH))
    height, width = field.shape[:2]
    moved = _unit_boxes(instances)
    for position, mask in enumerate(instances.resized(height, width).decode()):
        if mask.any():
            shift = np.median(field[mask], 0) / (width, height)
            moved[position] += np.tile(shift, 2).astype(np.float32)
    return moved


def _unit_boxes(instances: Instances) -> np.ndarray:
    """Boxes in shares of width and height."""
    return instances.boxes_at(1, 1) if len(instances) else np.zeros((0, 4), np.float32)


def _box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return box_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0

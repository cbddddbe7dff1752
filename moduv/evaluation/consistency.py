"""Whether labels persist in time: a measure that needs no ground truth.

It is no quality by itself, for labels that are always empty are consistent; counts stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou

from moduv.engine.log import progress
from moduv.evaluation.agreement import MATCH, UNDEFINED
from moduv.frames.clip import FrameRef
from moduv.frames.images import optical_flow, read_image, small_grey
from moduv.frames.video import FLOW_WIDTH
from moduv.instances.instances import Instances


def temporal_consistency(
    sets: Mapping[str, Sequence[Instances]],
    frames: Sequence[FrameRef],
    data: Path,
) -> dict[str, float]:
    """Share of each set's instances that are found again in the next frame, where the flow carries them.

    Args:
        sets: labels by the name of their set, frame by frame.
        frames: instances of a frame count where its successor is among them.
        data: folder of the frames.

    Instances that leave the picture do not count. -1 for a set without instances.
    """
    position = {frame: index for index, frame in enumerate(frames)}
    pairs = [(frame, frame.neighbour(1)) for frame in frames if frame.neighbour(1) in position]
    found, total = dict.fromkeys(sets, 0), dict.fromkeys(sets, 0)
    for frame, later in progress(pairs, desc="consistency", unit="pair"):
        now, then = position[frame], position[later]
        if not any(len(labels[now]) for labels in sets.values()):
            continue
        flow = flow_between(*(read_image(f.image_path(data)) for f in (frame, later)))
        for name, labels in sets.items():
            carried = carry_boxes(labels[now], flow)
            centres = (carried[:, :2] + carried[:, 2:]) / 2
            carried = carried[((centres > 0) & (centres < 1)).all(1)]
            known = labels[then].boxes_at(1, 1)
            iou = box_iou(torch.from_numpy(carried), torch.from_numpy(known))
            found[name] += int((iou.numpy().max(1, initial=0.0) >= MATCH).sum())
            total[name] += len(carried)
    return {name: found[name] / total[name] if total[name] else UNDEFINED for name in sets}


def flow_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Optical flow (h, w, 2) between two images (H, W, 3) uint8, at the width it is measured at."""
    return optical_flow(small_grey(before, FLOW_WIDTH), small_grey(after, FLOW_WIDTH))


def carry_boxes(instances: Instances, flow: np.ndarray) -> np.ndarray:
    """Boxes (N, 4), in shares of width and height, moved by the median flow (h, w, 2) in their masks."""
    height, width = flow.shape[:2]
    moved = instances.boxes_at(1, 1)
    for index, mask in enumerate(instances.resized(height, width).decode()):
        if mask.any():
            shift = np.median(flow[mask], 0) / (width, height)
            moved[index] += np.tile(shift, 2).astype(np.float32)
    return moved

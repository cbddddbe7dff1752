"""The yardstick: the truth in place of what is learnt, to see what a stage is worth.

True objects as labels train the same detector with the same budget; true motion and depth, which only
the street world knows everywhere, make the L0 of a perfect stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.files import read_npz, write_npz
from moduv.engine.stages import Stage
from moduv.evaluation.coco import select_images
from moduv.evaluation.motion import MOVING
from moduv.evaluation.stage1 import motion_labels
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import intrinsics
from moduv.frames.splits import read_split
from moduv.labels.instances import Instances
from moduv.labels.store import statistics, write_labels
from moduv.rounds.truth import coco_instances, group_by_image


@dataclass(frozen=True)
class TrueLabels:
    """Which true objects become labels."""

    ignored: bool = False
    """Also those that the evaluation ignores: slivers and crowds."""


def true_labels(split: Path, annotations: Path, out: Path, config: TrueLabels) -> None:
    """Write the true objects of a split as a label set. Only the yardstick is trained on it.

    Args:
        split: frames to label.
        annotations: true objects, COCO JSON.
        out: label root.
        config: which objects.
    """
    stage = Stage("labels true", out, config, (split, annotations))
    stage.run(lambda: _write(read_split(split), annotations, out, config))


def _write(
    frames: list[FrameRef], annotations: Path, out: Path, config: TrueLabels
) -> dict[str, Any]:
    content = select_images(annotations, [f"{f.segment}/{f.index:06d}.jpg" for f in frames])
    wanted = (a for a in content["annotations"] if config.ignored or not a.get("ignore"))
    grouped = group_by_image(wanted)
    for frame, image in zip(frames, content["images"], strict=True):
        size = (image["height"], image["width"]) if "height" in image else None
        found = coco_instances(grouped.get(image["id"], []), size)
        scored = Instances(found.masks, found.boxes, np.ones(len(found)), found.size)
        write_labels(out, frame, scored)
    return statistics(out, frames)


@dataclass(frozen=True)
class TrueMotion:
    """How true motion is stored."""

    half: bool = False
    """Store mask and depth in half precision."""


def true_motion(data: Path, split: Path, out: Path, config: TrueMotion) -> None:
    """Write the street world's true motion and depth in the form of stage 1's output.

    Args:
        data: folder of a street world.
        split: frames to write.
        out: receives `<segment>/NNNNNN.npz` with `mot_mask`, 1 where an object moves, `depth` in metres
            and `inv_K`, at the size of the frames.
        config: how they are stored.

    Raises:
        InputError: when a frame's truth or its intrinsics are missing or broken.
    """
    stage = Stage("motion true", out, config, (split,))
    stage.run(lambda: _write_motion(read_split(split), data, out, config))


def _write_motion(
    frames: list[FrameRef], data: Path, out: Path, config: TrueMotion
) -> dict[str, Any]:
    kind = np.float16 if config.half else np.float32
    for frame in frames:
        names = ("depth", "instances", "ids", "moving")
        truth = read_npz(frame.file(data / "truth", ".npz"), names)
        labels = motion_labels(truth["instances"], truth["ids"], truth["moving"])
        height, width = labels.shape
        write_npz(
            frame.file(out, ".npz"),
            mot_mask=(labels == MOVING).astype(kind),
            depth=truth["depth"].astype(kind),
            inv_K=intrinsics(data, frame.segment, width, height).inverse4().astype(np.float32),
        )
    return {"frames": len(frames)}

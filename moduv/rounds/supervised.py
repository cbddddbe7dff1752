"""The supervised upper bound: ground truth in place of what is learned, to see what a stage is worth.

True objects as labels train the same detector with the same budget; true motion and depth, which only
the street world knows everywhere, make the L0 of a perfect stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.datasets.truth import motion_labels
from moduv.engine.files import read_npz, write_npz
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import MOVING, intrinsics
from moduv.frames.splits import read_split
from moduv.instances.coco import coco_instances, group_by_image, select_images
from moduv.instances.instances import Instances
from moduv.instances.store import statistics, write_labels


@dataclass(frozen=True)
class TrueLabelsConfig:
    """Which true objects become labels."""

    ignored: bool = False
    """Also those that the evaluation ignores: slivers and crowds."""


def true_labels(split: Path, annotations: Path, out: Path, config: TrueLabelsConfig) -> None:
    """Write the true objects of a split as a label set. Only the upper bound is trained on it.

    Args:
        split: frames to label.
        annotations: true objects, COCO JSON.
        out: label root.
        config: which objects.
    """
    stage = Stage("labels true", out, config, (split, annotations))
    stage.run(lambda: _write(read_split(split), annotations, out, config))


def _write(
    frames: list[FrameRef], annotations: Path, out: Path, config: TrueLabelsConfig
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
class TrueMotionConfig:
    """True motion has no settings."""


def true_motion(data: Path, split: Path, out: Path) -> None:
    """Write the street world's true motion and depth in the form of stage 1's output.

    Args:
        data: folder of a street world.
        split: frames to write.
        out: receives `<segment>/NNNNNN.npz` with `mot_mask`, 1 where an object moves, `depth` in metres
            and `inv_K`, at the size of the frames.

    Raises:
        InputError: when a frame's truth or its intrinsics are missing or broken.
    """
    stage = Stage("motion true", out, TrueMotionConfig(), (split,))
    stage.run(lambda: _write_motion(read_split(split), data, out))


def _write_motion(frames: list[FrameRef], data: Path, out: Path) -> dict[str, Any]:
    for frame in frames:
        names = ("depth", "instances", "ids", "moving")
        truth = read_npz(frame.file(data / "truth", ".npz"), names)
        labels = motion_labels(truth["instances"], truth["ids"], truth["moving"])
        height, width = labels.shape
        write_npz(
            frame.file(out, ".npz"),
            mot_mask=(labels == MOVING).astype(np.float32),
            depth=truth["depth"].astype(np.float32),
            inv_K=intrinsics(data, frame.segment, width, height).inverse4().astype(np.float32),
        )
    return {"frames": len(frames)}

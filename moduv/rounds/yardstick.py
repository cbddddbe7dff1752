"""The yardstick: true objects as labels, to train the same detector with the same budget on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.stages import Stage
from moduv.evaluation.coco import select_images
from moduv.frames.clip import FrameRef
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

"""True objects of a run's frames, from COCO ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.evaluation.coco import select_images
from moduv.frames.clip import FrameRef
from moduv.labels import rle
from moduv.labels.imported import to_rle
from moduv.labels.instances import Instances


def select_truth(annotations: Path, data: Path, frames: Sequence[FrameRef]) -> dict[str, Any]:
    """The ground truth of some frames; its images follow the frames' order.

    Images may be named `<segment>/NNNNNN`, as exported, or by their place in the data folder.

    Raises:
        InputError: when the ground truth lacks one of the frames.
    """
    try:
        return select_images(annotations, [f"{f.segment}/{f.index:06d}.jpg" for f in frames])
    except InputError:
        paths = [frame.image_path(data).relative_to(data).as_posix() for frame in frames]
        return select_images(annotations, paths)


def group_by_image(annotations: Iterable[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """COCO annotations by the image they belong to."""
    grouped: dict[Any, list[dict[str, Any]]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def coco_instances(
    annotations: Sequence[dict[str, Any]],
    size: tuple[int, int] | None = None,
    *,
    boxes_as_masks: bool = False,
) -> Instances:
    """COCO annotations or results of one image as instances.

    Args:
        annotations: with masks as runs or polygons.
        size: height and width of the image; polygons and boxes need it.
        boxes_as_masks: where there is no mask, its box stands for it.

    Raises:
        InputError: when an annotation has no mask, or a broken one.
    """
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = []
    for annotation, box in zip(annotations, boxes, strict=True):
        if boxes_as_masks and size and not annotation.get("segmentation"):
            masks.append(_filled_box(box, size))
            continue
        try:
            masks.append(to_rle(annotation.get("segmentation"), size))
        except ValueError as error:
            raise InputError(f"annotation with id {annotation.get('id')} {error}.") from None
    scored = bool(annotations) and all("score" in annotation for annotation in annotations)
    scores = np.array([a["score"] for a in annotations]) if scored else None
    return Instances(masks, boxes, scores, size)


def _filled_box(box: np.ndarray, size: tuple[int, int]) -> rle.Rle:
    mask = np.zeros(size, bool)
    left, top, right, bottom = np.clip(np.round(box), 0, None).astype(int)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)

"""COCO segmentations, polygons or runs, and COCO annotations of one image as instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_codec

from moduv.engine.errors import InputError
from moduv.instances import rle
from moduv.instances.instances import LIMIT, Instances
from moduv.instances.rle import Rle

Size = tuple[int, int]


def to_rle(segmentation: Any, size: Size | None) -> Rle:
    """A COCO segmentation, polygons or runs, as compressed runs.

    Args:
        segmentation: as COCO has it: {"size", "counts"} with runs as text or list, or polygons
            [[x, y, x, y, …], …] in pixels.
        size: height and width of the image; polygons need it, runs must have it.

    Raises:
        ValueError: saying what is wrong, to go on after the annotation's name.
    """
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no 'segmentation'; draw its mask or remove it")
    if size is None:
        raise ValueError("has polygons on an image without 'height' and 'width'; add them")
    return _from_polygons(segmentation, size)


def _checked_runs(segmentation: dict[str, Any], size: Size | None) -> Rle:
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(own, list) or len(own) != 2 or not all(type(v) is int for v in own):
        raise ValueError("has a mask without 'size' [height, width]; export it again as COCO RLE")
    if size is not None and tuple(own) != size:
        raise ValueError(
            f"has a mask of {own[0]} x {own[1]} on an image of {size[0]} x {size[1]}; "
            "export it at the image's size"
        )
    if isinstance(counts, list):
        whole = all(type(run) is int and run >= 0 for run in counts)
        if min(own) < 1 or not whole or sum(counts) != own[0] * own[1]:
            raise ValueError("has runs that do not fill its mask; export it again")
        return rle.from_runs(counts, tuple(own))
    mask = {"size": own, "counts": counts}
    if not rle.is_whole(mask):
        raise ValueError("has runs that do not fill its mask; export it again")
    return mask


def _from_polygons(polygons: list[Any], size: Size) -> Rle:
    height, width = size
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(is_number(value) for value in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not [x, y, x, y, x, y, …]; draw it again")
        points = np.array(polygon, float).reshape(-1, 2)
        # Tools let points stand a little outside; far ones are pixels of another image.
        if (points < [-width, -height]).any() or (points > [2 * width, 2 * height]).any():
            raise ValueError(
                f"has a polygon far outside its image of {height} x {width}; draw it again"
            )
    merged = coco_codec.merge(coco_codec.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode()}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number that float32 can hold."""
    # NaN compares false.
    return type(value) in (int, float) and abs(value) < LIMIT


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
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
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

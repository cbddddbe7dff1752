"""Instances in the forms that other libraries have: COCO results, `supervision`, torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.instances.coco import coco_instances
from moduv.instances.instances import Instances
from moduv.instances.tracks import NOT_FOLLOWED

KEYS = {"track": "track_id", "name": "name"}
"""Columns and what COCO files call them."""
CLASS_NAME = "class_name"
"""What the annotators of `supervision` write beside an object."""


def coco_results(found: Instances, image_id: int | str) -> list[dict[str, Any]]:
    """See `Instances.to_coco`."""
    scores = np.ones(len(found)) if found.scores is None else found.scores
    corners = found.boxes.astype(float)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    columns = (boxes.tolist(), found.areas().tolist(), found.masks, scores.tolist(), _facts(found))
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "bbox": box,
            "area": area,
            "segmentation": mask,
            "score": score,
            **facts,
        }
        for box, area, mask, score, facts in zip(*columns, strict=True)
    ]


def _facts(found: Instances) -> list[dict[str, Any]]:
    """Identity and name of each object, where it has them."""
    facts: list[dict[str, Any]] = [{} for _ in range(len(found))]
    for column in [one for one in KEYS if one in found.columns]:
        for fact, value in zip(facts, found.columns[column].tolist(), strict=True):
            if value not in (NOT_FOLLOWED, ""):
                fact[KEYS[column]] = value
    return facts


def from_coco(
    annotations: Sequence[dict[str, Any]], size: tuple[int, int] | None = None
) -> Instances:
    """See `Instances.from_coco`."""
    found = coco_instances(annotations, size)
    known = {
        column: [entry[key] for entry in annotations]
        for column, key in KEYS.items()
        if annotations and all(key in entry for entry in annotations)
    }
    return found.with_columns(**known)


def to_supervision(found: Instances) -> Any:
    """See `Instances.to_supervision`."""
    from supervision import Detections

    columns = {name: values for name, values in found.columns.items() if name != "track"}
    return Detections(
        xyxy=found.boxes,
        mask=found.decode() if len(found) else None,
        confidence=found.scores,
        class_id=np.zeros(len(found), int),
        tracker_id=found.columns.get("track"),
        data={CLASS_NAME if name == "name" else name: values for name, values in columns.items()},
    )


def from_supervision(detections: Any, size: tuple[int, int] | None = None) -> Instances:
    """See `Instances.from_supervision`."""
    if detections.mask is None and len(detections):
        raise ValueError("the detections have no masks; segment them first")
    columns = {"name" if key == CLASS_NAME else key: v for key, v in detections.data.items()}
    if detections.tracker_id is not None:
        columns["track"] = detections.tracker_id
    if detections.mask is None:
        return Instances([], np.zeros((0, 4)), detections.confidence, size, columns)
    return Instances.from_dense(detections.mask, detections.xyxy, detections.confidence, columns)


def to_torchvision(found: Instances) -> dict[str, Tensor]:
    """See `Instances.to_torchvision`."""
    target = {
        "boxes": torch.from_numpy(found.boxes),
        "labels": torch.ones(len(found), dtype=torch.int64),
        "masks": torch.from_numpy(found.decode().view(np.uint8)),
    }
    return target if found.scores is None else target | {"scores": torch.from_numpy(found.scores)}


def from_torchvision(target: Mapping[str, Tensor], mask_threshold: float = 0.5) -> Instances:
    """See `Instances.from_torchvision`."""
    found = {key: values.detach().cpu() for key, values in target.items()}
    masks, scores = found["masks"].flatten(0, -3), found.get("scores")
    hard = masks > (mask_threshold if masks.is_floating_point() else 0)
    confidence = None if scores is None else scores.numpy()
    return Instances.from_dense(hard.numpy(), found["boxes"].numpy(), confidence)

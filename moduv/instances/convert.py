"""Instances as other libraries hold them: `supervision`, torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.instances.instances import Instances


def to_supervision(found: Instances) -> Any:
    """`supervision.Detections` of class 0; `track` becomes `tracker_id`, other columns `data`.

    Raises ModuleNotFoundError where the package `supervision` is not installed.
    """
    from supervision import Detections

    data: dict[str, Any] = {
        name: values for name, values in found.columns.items() if name != "track"
    }
    return Detections(
        xyxy=found.boxes,
        mask=found.decode() if len(found) else None,
        confidence=found.scores,
        class_id=np.zeros(len(found), int),
        tracker_id=found.columns.get("track"),
        data=data,
    )


def from_supervision(detections: Any, size: tuple[int, int] | None = None) -> Instances:
    """Of `supervision.Detections` with masks.

    Args:
        detections: with masks (N, H, W); `tracker_id` becomes the column `track`.
        size: height and width of the image, for detections without any object.

    Raises:
        ValueError: when objects have no masks.
    """
    if detections.mask is None and len(detections):
        raise ValueError("the detections have no masks; segment them first")
    columns = {name: np.asarray(values) for name, values in detections.data.items()}
    if detections.tracker_id is not None:
        columns["track"] = detections.tracker_id
    scores = detections.confidence
    if detections.mask is None:
        return Instances([], np.zeros((0, 4)), scores, size, columns)
    return Instances.from_dense(detections.mask, detections.xyxy, scores, columns=columns)


def to_torchvision(found: Instances) -> dict[str, Tensor]:
    """A target of torchvision's detectors: `boxes` (N, 4), `labels` (N,) 1, `masks` (N, H, W) uint8."""
    target = {
        "boxes": torch.from_numpy(found.boxes),
        "labels": torch.ones(len(found), dtype=torch.int64),
        "masks": torch.from_numpy(found.decode().view(np.uint8)),
    }
    return target if found.scores is None else {**target, "scores": torch.from_numpy(found.scores)}


def from_torchvision(target: Mapping[str, Tensor], mask_threshold: float = 0.5) -> Instances:
    """Of a target or an output of torchvision's detectors.

    Args:
        target: `boxes` (N, 4), `masks` (N, H, W) or (N, 1, H, W), whole or as probabilities, and
            perhaps `scores` (N,).
        mask_threshold: pixels above it belong to a mask of probabilities.
    """
    masks = target["masks"].detach().cpu()
    masks = masks[:, 0] if masks.ndim == 4 else masks
    hard = masks > mask_threshold if masks.is_floating_point() else masks > 0
    scores = target["scores"].detach().cpu().numpy() if "scores" in target else None
    return Instances.from_dense(hard.numpy(), target["boxes"].detach().cpu().numpy(), scores)

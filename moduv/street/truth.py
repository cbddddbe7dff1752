"""Ground truth of a rendered clip: optical flow and COCO annotations. Never used in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from moduv.frames.camera import Intrinsics
from moduv.instances import rle
from moduv.street.scene import Scene

SMALLEST_SIDE = 8
"""Objects whose visible part is less wide and less high than this, in pixels, need not be found."""
SMALLEST_AREA = 24
SIZES = {"small": (0, 14), "medium": (14, 28), "large": (28, 10_000)}
"""Ranges of the square root of the visible area in pixels, for counting."""


def optical_flow(
    scene: Scene, frame: int, camera: Intrinsics, depth: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Forward flow (2, H, W) in pixels, from `frame` to the next one, of the visible surfaces."""
    rows, columns = np.mgrid[: camera.height, : camera.width]
    pixels = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1).astype(np.float64)
    rays = np.linalg.inv(camera.matrix()) @ pixels
    rotation, position = scene.camera(frame)
    world = rotation @ (rays * depth.reshape(-1)) + position[:, None]
    steps = np.zeros((len(scene.objects) + 1, 3))
    for identity, item in enumerate(scene.objects, 1):
        steps[identity] = item.at(frame + 1) - item.at(frame)
    rotation, position = scene.camera(frame + 1)
    seen = rotation.T @ (world + steps[ids.reshape(-1)].T - position[:, None])
    moved = camera.matrix() @ (seen / np.maximum(seen[2], 1e-3))
    return (moved[:2] - pixels[:2]).reshape(2, camera.height, camera.width)


def annotate(scene: Scene, depth: np.ndarray, ids: np.ndarray) -> list[dict[str, Any]]:
    """COCO annotations of the visible objects.

    Beside COCO's keys: `moving`, `depth` (metres), `ignore`, `name` ("red van") and the object's number
    in the scene, `track_id`.
    """
    annotations = []
    for identity in np.unique(ids[ids > 0]):
        mask = ids == identity
        rows, columns = np.nonzero(mask)
        left, top = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) - left + 1, int(rows.max()) - top + 1
        area, item = int(mask.sum()), scene.objects[identity - 1]
        ignore = int(max(width, height) < SMALLEST_SIDE or area < SMALLEST_AREA)
        annotations.append(
            {
                "category_id": 1,
                "bbox": [left, top, width, height],
                "area": area,
                "segmentation": rle.encode(mask),
                "iscrowd": ignore,
                "ignore": ignore,
                "moving": int(item.moving),
                "name": item.name,
                "track_id": int(identity),
                "depth": round(float(np.median(depth[mask])), 3),
            }
        )
    return annotations


def count_objects(annotations: dict[str, Any]) -> dict[str, int]:
    """How many annotated objects are moving or static and small, medium or large."""
    counts = {f"{state} {size}": 0 for state in ("moving", "static") for size in SIZES}
    counts["ignored"] = 0
    for item in annotations["annotations"]:
        if item["ignore"]:
            counts["ignored"] += 1
            continue
        root = item["area"] ** 0.5
        size = next(name for name, (low, high) in SIZES.items() if low <= root < high)
        counts[f"{'moving' if item['moving'] else 'static'} {size}"] += 1
    return counts

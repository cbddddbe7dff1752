"""Labels of a frame carried to a neighbour, where the way there and back agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.flow import follow
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.labels.predicted import SAME, with_fitted_boxes

GONE = "gone from the frame"
LOST = "not found again"


@dataclass(frozen=True)
class CarryConfig:
    """Which carried labels are kept."""

    again: float = 0.5
    """Least IoU of a mask with itself after it was carried to the other frame and back."""

    def __post_init__(self) -> None:
        if not 0 < self.again <= 1:
            raise InputError(f"again is {self.again}; use an IoU in (0, 1].")


class Way(Protocol):
    """How masks (H, W) bool get from a frame to another one, and back."""

    def there(self, mask: np.ndarray) -> np.ndarray:
        """Where a mask of the frame is in the other one."""

    def back(self, mask: np.ndarray) -> np.ndarray:
        """Where a mask of the other frame is in this one."""


@dataclass(frozen=True)
class FlowWay:
    """By optical flow: a pixel belongs to an object if its flow leads into it."""

    forward: np.ndarray
    """(H, W, 2), from each pixel of the frame to the other one."""
    backward: np.ndarray
    """(H, W, 2), from each pixel of the other frame."""

    def there(self, mask: np.ndarray) -> np.ndarray:
        return _taken(mask, self.backward)

    def back(self, mask: np.ndarray) -> np.ndarray:
        return _taken(mask, self.forward)


def _taken(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    return follow(mask.astype(np.float32), flow, outside=0.0) > 0.5


@dataclass(frozen=True)
class Carried:
    """Labels in another frame."""

    labels: Instances
    agreement: np.ndarray
    """(N,), IoU of each mask with itself after the way there and back."""
    dropped: Counter[str]
    """Labels that were not carried, by reason."""


def carry(labels: Instances, way: Way, config: CarryConfig | None = None) -> Carried:
    """Carry the labels of a frame to another one; boxes become those of the masks, columns stay.

    A label is kept if its mask, carried back in the same manner, is where it was; so one of which less than
    half is still in the frame is not.
    """
    config = config or CarryConfig()
    masks, agreement, kept = list[rle.Rle](), list[float](), list[int]()
    dropped = Counter[str]()
    for position, mask in enumerate(map(rle.decode, labels.masks)):
        there = way.there(mask)
        if not there.any():
            dropped[GONE] += 1
            continue
        again = _iou(way.back(there), mask)
        if again < config.again:
            dropped[LOST] += 1
            continue
        masks.append(rle.encode(there))
        agreement.append(again)
        kept.append(position)
    found = with_fitted_boxes(replace(labels[kept], masks=masks))
    return Carried(found, np.array(agreement), dropped)


def join(carried: Sequence[Carried]) -> Instances:
    """The labels that were carried from several frames to one; of one object those that agree best."""
    found = Instances.concatenate([one.labels for one in carried])
    overlap = found.iou(found)
    kept: list[int] = []
    for position in np.argsort(-np.concatenate([one.agreement for one in carried]), kind="stable"):
        if not kept or overlap[position, kept].max() <= SAME:
            kept.append(int(position))
    return found[sorted(kept)]


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0

"""Identities over the frames of a video; here by the overlap of boxes from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from moduv.engine.errors import InputError
from moduv.instances.instances import Instances

NOT_FOLLOWED = -1
"""Value of the column `track` for detections below the score from which objects are followed."""


class FrameTracker(Protocol):
    """Gives the objects of successive frames their identities, none of which is given twice."""

    next_identity: int

    def forget(self) -> None:
        """Know no object any more, as after a cut; identities go on counting."""

    def assign(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """Identities (N,) of the objects in the next frame (H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class TrackConfig:
    """When two detections are of one object."""

    match_iou: float = 0.2
    """Least IoU of a detection's box with the place where its object is expected."""
    patience: int = 10
    """Frames for which an object that is not detected is remembered."""
    steadiness: float = 0.7
    """Share of the earlier velocity in the one that is expected to last, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 < self.match_iou <= 1 or self.patience < 0 or not 0 <= self.steadiness < 1:
            raise InputError(
                f"match_iou is {self.match_iou}, patience {self.patience}, steadiness {self.steadiness}; "
                "use match_iou in (0, 1], patience of 0 or more and steadiness in [0, 1)."
            )


class Tracker:
    """Gives the objects of successive frames their identities.

    Every frame's boxes are assigned to the known objects so that the sum of IoUs is largest (Bewley et
    al. 2016); objects are expected to go on as they last moved. No identity is given twice.
    """

    def __init__(self, config: TrackConfig | None = None, first: int = 1) -> None:
        self.config = config or TrackConfig()
        self.next_identity = first
        self._tracks: list[_Track] = []

    def forget(self) -> None:
        """Know no object any more, as after a cut; identities go on counting."""
        self._tracks = []

    def assign(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """Identities (N,) of the next frame's objects, by their boxes alone."""
        return self.update(found.boxes)

    def update(self, boxes: np.ndarray) -> np.ndarray:
        """Identities (N,) of the next frame's boxes (N, 4), XYXY."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        for track in self._tracks:
            track.unseen += 1
        self._tracks = [t for t in self._tracks if t.unseen <= self.config.patience + 1]
        identities = np.zeros(len(boxes), np.int64)
        for track, position in self._matches(boxes):
            track.move(boxes[position], self.config.steadiness)
            identities[position] = track.identity
        for position in np.flatnonzero(identities == 0).tolist():
            identities[position] = self.next_identity
            self._tracks.append(_Track(self.next_identity, boxes[position]))
            self.next_identity += 1
        return identities

    def _matches(self, boxes: np.ndarray) -> list[tuple[_Track, int]]:
        if not self._tracks or not len(boxes):
            return []
        expected = np.stack([track.expected() for track in self._tracks])
        overlaps = box_iou(torch.from_numpy(expected), torch.from_numpy(boxes)).numpy()
        # Of two boxes without area the IoU is no number.
        overlaps = np.where(overlaps >= self.config.match_iou, overlaps, 0.0)
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(self._tracks[row], column) for row, column in pairs if overlaps[row, column]]


@dataclass
class _Track:
    identity: int
    box: np.ndarray
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(4))
    """Of each side, pixels a frame."""
    steps: int = 0
    """Detections after the first."""
    unseen: int = 0
    """Frames since the last detection."""

    def expected(self) -> np.ndarray:
        """Where the object should be now."""
        box = self.box + self.velocity * self.unseen
        return np.concatenate([box[:2], np.maximum(box[2:], box[:2])])

    def move(self, box: np.ndarray, steadiness: float) -> None:
        """Take in a detection; the first velocities count alike, until enough are known."""
        self.steps += 1
        kept = min(steadiness, 1 - 1 / self.steps)
        self.velocity = kept * self.velocity + (1 - kept) * (box - self.box) / self.unseen
        self.box, self.unseen = box, 0

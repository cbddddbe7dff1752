"""Identities over the frames of a video by propagated masks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from moduv.correspondence.carrying import coverage
from moduv.correspondence.neighbours import most_similar, vote
from moduv.correspondence.predict import Follower
from moduv.correspondence.propagation import PropagationConfig
from moduv.engine.errors import InputError
from moduv.instances.instances import Instances


@dataclass(frozen=True)
class MaskTrackConfig:
    """When a detection belongs to a known object."""

    match_iou: float = 0.1
    """Smallest IoU of a detection and the propagated mask of an object, as soft masks at the size of the features."""
    propagation: PropagationConfig = field(default_factory=lambda: PropagationConfig(context=10))
    """Its `context` is also the number of frames for which an undetected object is remembered."""

    def __post_init__(self) -> None:
        if not 0 < self.match_iou <= 1:
            raise InputError(f"match_iou is {self.match_iou}; use a value in (0, 1].")


@dataclass(frozen=True)
class _Seen:
    feature: Tensor
    """(h, w, C)."""
    planes: dict[int, Tensor]
    """By identity, the share of each cell that the object covers, (h w,)."""


class MaskTracker:
    """Assigns identities to the objects of successive frames by propagated masks.

    The masks of the latest frames are propagated to the next (Jabri et al. 2020), and its detections are assigned to them by
    the largest sum of IoUs. An object that is not detected keeps its propagated mask.
    """

    def __init__(
        self, follower: Follower, config: MaskTrackConfig | None = None, first: int = 1
    ) -> None:
        self.follower = follower
        self.config = config or MaskTrackConfig()
        self.next_identity = first
        self._recent: deque[_Seen] = deque(maxlen=self.config.propagation.context)
        self._unseen: dict[int, int] = {}
        """Frames since each known object was last detected."""

    def forget(self) -> None:
        """Forget all objects, as after a cut; new identities are still different from earlier ones."""
        self._recent.clear()
        self._unseen.clear()

    @torch.no_grad()
    def assign(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """Identities (N,) of the objects in the next frame (H, W, 3) uint8 RGB."""
        feature = self.follower.features(image).float().movedim(0, -1).contiguous()
        known, expected = self._propagated(feature)
        height, width, _ = feature.shape
        cells = coverage(found.decode(), (height, width), feature.device)
        identities = np.zeros(len(found), np.int64)
        for row, column in self._matches(expected, cells):
            identities[column] = known[row]
        for position in np.flatnonzero(identities == 0).tolist():
            identities[position] = self.next_identity
            self.next_identity += 1
        self._remember(feature, dict(zip(known, expected, strict=True)), identities, cells)
        return identities

    def _propagated(self, feature: Tensor) -> tuple[list[int], Tensor]:
        """The known identities, and their propagated masks (K, h w)."""
        known = list(self._unseen)
        height, width, _ = feature.shape
        if not known:
            return [], feature.new_zeros(0, height * width)
        settings = self.config.propagation
        frames = [seen.feature for seen in self._recent]
        found = most_similar(feature, frames, settings.top_k, settings.radius)
        nowhere = feature.new_zeros(height * width)
        labels = torch.stack(
            [
                torch.cat([seen.planes.get(identity, nowhere) for seen in self._recent])
                for identity in known
            ]
        )
        return known, vote([found], settings.top_k, settings.temperature).taken(labels)

    def _matches(self, expected: Tensor, cells: Tensor) -> list[tuple[int, int]]:
        """Pairs of a known object and a detection."""
        if not (len(expected) and len(cells)):
            return []
        shared = torch.minimum(expected[:, None], cells).sum(-1)
        union = torch.maximum(expected[:, None], cells).sum(-1)
        overlaps = (shared / union.clamp(min=1e-6)).cpu().numpy()
        overlaps = np.where(overlaps >= self.config.match_iou, overlaps, 0.0)
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(row, column) for row, column in pairs if overlaps[row, column]]

    def _remember(
        self, feature: Tensor, expected: dict[int, Tensor], identities: np.ndarray, cells: Tensor
    ) -> None:
        detected = dict(zip(identities.tolist(), cells, strict=True))
        self._unseen = {i: unseen + 1 for i, unseen in self._unseen.items()} | dict.fromkeys(
            detected, 0
        )
        patience = self.config.propagation.context
        self._unseen = {i: unseen for i, unseen in self._unseen.items() if unseen <= patience}
        free = (1 - cells.sum(0)).clamp(min=0)
        lost = {i: plane * free for i, plane in expected.items() if i not in detected}
        self._recent.append(_Seen(feature, lost | detected))

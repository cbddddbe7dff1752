"""Masks carried between two frames by what looks alike: the least of label propagation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv.correspondence.neighbours import Votes, most_similar, vote
from moduv.correspondence.propagation import PropagationConfig


@dataclass(frozen=True)
class FeatureWay:
    """How masks (H, W) bool get from a frame to another one, and back: each cell takes the labels of the other's."""

    forward: Votes
    """Cells of the frame that cells of the other one take labels from."""
    backward: Votes
    """Cells of the other frame that those of the frame take labels from."""
    cells: tuple[int, int]
    """Height and width of the features."""

    @classmethod
    def between(cls, feature: Tensor, other: Tensor, config: PropagationConfig) -> FeatureWay:
        """Of the features (C, h, w) of two frames."""
        first, second = (x.float().movedim(0, -1).contiguous() for x in (feature, other))
        forward, backward = (
            vote(
                [most_similar(to, [source], config.top_k, config.radius)],
                config.top_k,
                config.temperature,
            )
            for to, source in ((second, first), (first, second))
        )
        return cls(forward, backward, (first.shape[0], first.shape[1]))

    def there(self, mask: np.ndarray) -> np.ndarray:
        """Where a mask of the frame is in the other one."""
        return self._taken(mask, self.forward)

    def back(self, mask: np.ndarray) -> np.ndarray:
        """Where a mask of the other frame is in this one."""
        return self._taken(mask, self.backward)

    def _taken(self, mask: np.ndarray, votes: Votes) -> np.ndarray:
        """A pixel belongs to the object if most of what it takes does."""
        planes = coverage(mask[None], self.cells, votes.weights.device)
        found = votes.taken(planes).view(1, 1, *self.cells)
        return (F.interpolate(found, mask.shape, mode="bilinear")[0, 0] > 0.5).cpu().numpy()


def coverage(masks: np.ndarray, cells: tuple[int, int], device: torch.device) -> Tensor:
    """How much of each cell (N, h w) masks (N, H, W) bool cover."""
    if not len(masks):
        return torch.zeros(0, cells[0] * cells[1], device=device)
    dense = torch.from_numpy(masks).to(device, torch.float32)[None]
    return F.interpolate(dense, cells, mode="area")[0].flatten(1)

"""Masks carried between two frames by the similarity of features."""

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
    """Carries masks (H, W) bool from one frame to another and back, by label propagation between the two."""

    forward: Votes
    """From the frame to the other one."""
    backward: Votes
    """From the other frame back."""
    cells: tuple[int, int]
    """Height and width of the features."""

    @classmethod
    def between(cls, feature: Tensor, other: Tensor, config: PropagationConfig) -> FeatureWay:
        """Compare the features (C, h, w) of two frames."""
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
        """Carry a mask of the frame to the other one."""
        return self._taken(mask, self.forward)

    def back(self, mask: np.ndarray) -> np.ndarray:
        """Carry a mask of the other frame back."""
        return self._taken(mask, self.backward)

    def _taken(self, mask: np.ndarray, votes: Votes) -> np.ndarray:
        """Pixels whose weighted labels exceed 0.5."""
        planes = coverage(mask[None], self.cells, votes.weights.device)
        found = votes.taken(planes).view(1, 1, *self.cells)
        return (F.interpolate(found, mask.shape, mode="bilinear")[0, 0] > 0.5).cpu().numpy()


def coverage(masks: np.ndarray, cells: tuple[int, int], device: torch.device) -> Tensor:
    """The share of each cell (N, h w) that masks (N, H, W) bool cover."""
    if not len(masks):
        return torch.zeros(0, cells[0] * cells[1], device=device)
    dense = torch.from_numpy(masks).to(device, torch.float32)[None]
    return F.interpolate(dense, cells, mode="area")[0].flatten(1)

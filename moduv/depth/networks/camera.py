"""A camera whose focal length is learned with depth and ego-motion (Gordon et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedCamera(nn.Module):
    """One focal length for all clips whose camera is assumed, as a factor of what was assumed.

    Gordon et al. predict intrinsics for every pair of frames; here one camera filmed all clips, so a
    single number suffices. Rotations tell the focal length, for their flow does not depend on depth; a
    camera that only drives straight ahead tells next to nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.zeros(()))

    @property
    def factor(self) -> Tensor:
        """True focal length divided by the assumed one, positive scalar."""
        return self.log_factor.exp()

    def forward(self, K: Tensor, inv_K: Tensor, assumed: Tensor) -> tuple[Tensor, Tensor]:
        """K and its inverse (B, 4, 4), without skew, with the learned focal length where `assumed` (B,)."""
        factor = torch.where(assumed, self.factor, torch.ones_like(self.factor))  # (B,)
        focal = torch.zeros_like(K)
        focal[:, 0, 0], focal[:, 1, 1] = K[:, 0, 0], K[:, 1, 1]
        zoomed = K + focal * (factor - 1)[:, None, None]
        # The inverse's first two rows hold 1 / f and -c / f.
        ones = torch.ones_like(factor)
        rows = torch.stack([1 / factor, 1 / factor, ones, ones], 1)
        return zoomed, inv_K * rows[:, :, None]

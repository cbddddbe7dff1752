"""Residual flow between a warped frame and the real one: one iteration of RAFT (Teed and Deng 2020)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large


class ResidualNet(nn.Module):
    """torchvision's RAFT, trained from scratch. Height and width are multiples of 8 and at least 128 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.raft = raft_large(weights=None)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The flow (B, 2, H, W) in pixels from images (B, 3, H, W) in [0, 1] to others of the same shape."""
        flow: Tensor = self.raft(2 * first - 1, 2 * second - 1, num_flow_updates=1)[-1]
        return flow

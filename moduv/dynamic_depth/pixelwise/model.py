"""Stage 1: depth, ego-motion and a residual flow for every pixel (Nguyen et al. 2024, section 3.1), and its losses.

The last stage trains the same networks on, with pseudo-depth where objects move (section 3.4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv import geometry
from moduv.dynamic_depth import losses
from moduv.dynamic_depth.data import Batch
from moduv.dynamic_depth.networks.depth import DepthNet
from moduv.dynamic_depth.networks.pose import PoseNet
from moduv.dynamic_depth.networks.residual import ResidualNet
from moduv.dynamic_depth.pixelwise.residual import (
    camera_poses,
    residual_coordinates,
    residual_flow,
    sample,
)

SMOOTHNESS, SPARSITY = 0.002, 0.02
"""Weights beside the photometric error; that of the smoothness is halved from scale to scale."""


class PixelwiseNetworks(nn.Module):
    """Depth, ego-motion and residual flow."""

    def __init__(self) -> None:
        super().__init__()
        self.depth_net = DepthNet()
        self.pose_net = PoseNet()
        self.raft = ResidualNet()


def pixelwise_terms(
    model: PixelwiseNetworks, batch: Batch, *, residual: bool, sparse: bool
) -> tuple[Batch, list[Tensor]]:
    """The terms of a batch of triplets, and the depths (B, 1, h, w) of its centres by scale.

    Args:
        batch: `images` and `augmented` (B, 3, 3, H, W) in [0, 1], and `K` (B, 4, 4) in pixels.
        residual: explain moving pixels by residual flow, instead of assuming a static scene.
        sparse: keep only residual flow that is longer than the mean, and penalise it.

    Returns:
        `loss`, and its terms with their weights, see `triplet_losses`; and the depths by scale.
    """
    frames, K = batch["augmented"], batch["K"]
    depths = [depth.float() for depth in model.depth_net(frames[:, 1])]
    poses = camera_poses(model.pose_net, frames).float()
    own = None
    if residual:
        own = residual_flow(model.raft, frames, depths[0], K, poses, sparse=sparse)
    return triplet_losses(frames, depths, K, poses, own, sparse=sparse), depths


def triplet_losses(
    frames: Tensor,
    depths: list[Tensor],
    K: Tensor,
    poses: Tensor,
    residual: Tensor | None,
    *,
    sparse: bool,
) -> Batch:
    """The losses of triplets that are explained by depth, ego-motion and residual flow.

    Args:
        frames: (B, 3, 3, H, W) in [0, 1], -1, 0, +1.
        depths: (B, 1, h, w) of the centres, at some scales.
        K: (B, 4, 4), pixels.
        poses: (B, 2, 4, 4), from the centre's coordinates to the neighbours'.
        residual: (B, 2, 2, H, W), the same for all scales, see `residual_flow`; None: a static scene.
        sparse: penalise residual flow.

    Returns:
        `loss`, and with their weights `photometric`, `smoothness` and `sparsity`, means over the scales.
    """
    size, centre = frames.shape[-2:], frames[:, 1]
    photometric, smoothness = [], []
    for scale, depth in enumerate(depths):
        warped = warp_neighbours(frames, geometry.resize(depth, size), K, poses, residual)
        photometric.append(losses.photometric(warped, frames[:, [0, 2]], centre))
        image = F.interpolate(centre, depth.shape[-2:], mode="area")
        smoothness.append(SMOOTHNESS / 2**scale * losses.smoothness(1 / depth, image))
    terms = {
        "photometric": torch.stack(photometric).mean(),
        "smoothness": torch.stack(smoothness).mean(),
    }
    if sparse and residual is not None:
        terms["sparsity"] = SPARSITY * losses.sparsity(residual.flatten(0, 1))
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def warp_neighbours(
    frames: Tensor, depth: Tensor, K: Tensor, poses: Tensor, residual: Tensor | None = None
) -> Tensor:
    """The frames -1 and +1 warped to the centre, (B, 2, 3, H, W); arguments as in `triplet_losses`."""
    depths, cameras = (field.repeat_interleave(2, 0) for field in (depth, K))
    own = None if residual is None else residual.flatten(0, 1)
    coordinates, _ = residual_coordinates(depths, cameras, poses.flatten(0, 1), own)
    return sample(frames[:, [0, 2]].flatten(0, 1), coordinates).unflatten(0, (-1, 2))


def pseudo_depth_term(
    depths: list[Tensor], pseudo: Tensor, mask: Tensor, *, bilinear: bool = False
) -> Tensor:
    """The difference to pseudo-depth on moving objects, mean over the scales.

    Args:
        depths: (B, 1, h, w), predicted, by scale.
        pseudo: (B, 1, H, W), up to scale, and complete: the static pixels determine the scale.
        mask: (B, 1, H, W), not 0 where objects move.
        bilinear: resize pseudo-depth bilinearly; otherwise to the nearest pixel, like the mask.
    """

    def nearest(field: Tensor, depth: Tensor) -> Tensor:
        return F.interpolate(field.float(), depth.shape[-2:], mode="nearest")

    terms = []
    for depth in depths:
        target = geometry.resize(pseudo, depth.shape[-2:]) if bilinear else nearest(pseudo, depth)
        terms.append(losses.pseudo_depth(depth, target, nearest(mask, depth)))
    return torch.stack(terms).mean()


@torch.no_grad()
def explain(model: PixelwiseNetworks, frames: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (B, 1, H, W) of the centres of triplets (B, 3, 3, H, W), poses (B, 2, 4, 4), residual (B, 2, 2, H, W)."""
    depth = model.depth_net(frames[:, 1])[0].float()
    poses = camera_poses(model.pose_net, frames).float()
    return depth, poses, residual_flow(model.raft, frames, depth, K, poses, sparse=True)
